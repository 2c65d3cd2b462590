"""`schema` and the schemas themselves: each document of the commands and files has one."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dsmops.operations.schemas import FOLDER, list_schemas
from dsmops.publish.manifest import Entry, encode
from tests.support.cli import dsmops
from tests.support.documents import InvalidDocumentError, validate
from tools import schemas
from tools.command_reference import command_names


def test_the_schemas_are_what_the_classes_say() -> None:
    """`make docs` writes them, and the page that lists them."""
    assert schemas.outdated() == []


def test_each_command_has_a_schema() -> None:
    """All commands print a document; that of `transcribe --output-dir` is one more."""
    assert set(command_names()) <= {one.name for one in list_schemas().schemas}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_no_object_allows_unknown_keys(path: Path) -> None:
    """An object lists its keys, or says what all its values are."""
    found: list[Any] = [json.loads(path.read_bytes())]
    while found:
        part = found.pop()
        if isinstance(part, dict):
            if part.get("type") == "object":
                assert part["additionalProperties"] is False or "properties" not in part
            found += part.values()
        elif isinstance(part, list):
            found += part


def test_it_lists_and_prints_them() -> None:
    """The name may be that of a document, and the text is the file's."""
    listed = dsmops("schema", "--json").document["schemas"]
    assert {"name": "plan", "source": "plan"} in listed
    assert "conversion-record" in dsmops("schema").stdout
    text = (FOLDER / "plan.json").read_text(encoding="utf-8")
    assert dsmops("schema", "plan").stdout == text == dsmops("schema", "dsmops.plan/1").stdout
    unknown = dsmops("schema", "plna")
    assert (unknown.code, "plan" in unknown.stderr) == (3, True)


def test_an_unknown_key_and_an_unknown_document_are_found() -> None:
    """The check of every other test can fail."""
    right = {"schema": "dsmops.down/1", "ended": False, "pid": None}
    validate(right)
    for wrong in (
        {**right, "more": 1},
        {**right, "pid": "7"},
        {"schema": "dsmops.down/1", "ended": False},
        {**right, "schema": "dsmops.down/2"},
        {**right, "schema": "dsmops.no-such-document/1"},
    ):
        with pytest.raises(InvalidDocumentError):
            validate(wrong)


def test_a_manifest_with_entries_follows_its_schema() -> None:
    """Its rows are encoded one by one, so nothing else validates them."""
    entry = Entry("log.stt.2025-11-15", "0" * 64, 5, 7, 9, 5, "bodies/log.stt.2025-11-15")
    body = json.loads(gzip.decompress(encode([entry], ["older"], datetime.now(UTC))))
    assert len(body["entries"]) == 1
    validate(body)
    body["entries"][0].append("more")
    with pytest.raises(InvalidDocumentError):
        validate(body)
