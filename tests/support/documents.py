"""Validate every JSON document that dsmops makes in a test against its shipped schema."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

import pytest

from dsmops.operations.schemas import schema_text

MOST_LOG_RECORDS = 200
"""Records of logs that one process validates: tests write millions of them."""


class InvalidDocumentError(AssertionError):
    """A document that has no schema, or that does not follow it."""


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = json.loads(schema_text(name))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def validate(document: Any) -> None:
    """Raise `InvalidDocumentError` where a document breaks the schema that it names."""
    from dsmops.errors import InputError

    name = str(document["schema"]) if "schema" in document else "error"
    try:
        validator = _validator(name)
    except InputError as exc:
        raise InvalidDocumentError(f"{exc.message}: add it to tools/schemas.py") from exc
    # The text is what users get: a tuple is an array there.
    body = json.loads(_dumps(document))
    for error in validator.iter_errors(body):
        place = "/".join(map(str, error.absolute_path))
        raise InvalidDocumentError(f"{name}, at {place!r}: {error.message[:400]}")


_dumps = json.dumps
_log_records = iter(range(MOST_LOG_RECORDS))


def validate_documents() -> None:
    """Let `json.dumps` validate each document that a module of dsmops makes, in this process."""
    setattr(json, "dumps", _checked_dumps)  # noqa: B010 mypy knows another signature


def without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test make any document."""
    monkeypatch.setattr(json, "dumps", _dumps)


def _checked_dumps(value: Any, **options: Any) -> str:
    if isinstance(value, dict) and _is_document(value):
        is_record = value.get("schema") == "dsmops.log-record/1"
        if not is_record or next(_log_records, None) is not None:
            validate(value)
    return _dumps(value, **options)


def _is_document(value: dict[str, Any]) -> bool:
    maker = str(sys._getframe(2).f_globals.get("__name__", ""))
    if value.keys() == {"error"}:
        return maker == "dsmops.report.reporter"
    return maker.startswith("dsmops.") and str(value.get("schema", "")).startswith("dsmops.")
