"""Values to JSON documents."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from dsmops.devices import ComputeCapability

_SURROGATE = re.compile("[\ud800-\udfff]")


def document(command: str, value: Any) -> str:
    """Return the JSON document of a command's result.

    The number in its schema is that of the document's meaning: a new key leaves it, a changed
    meaning raises it.
    """
    body = {"schema": f"dsmops.{command}/1", **to_json(value)}
    return json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)


def to_json(value: Any) -> Any:
    """Return `value` as JSON knows it.

    Dataclasses become objects, times UTC ISO 8601, non-finite floats null. A field with a `json` in
    its metadata goes by that name; `items` there gives other names to keys of the objects it lists.

    Bytes of a file name that are not UTF-8 become U+FFFD, since JSON cannot hold them.
    """
    if isinstance(value, Path | ComputeCapability):
        value = str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.metadata.get("json", field.name): _renamed(
                to_json(getattr(value, field.name)), field.metadata.get("items")
            )
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {to_json(str(key)): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [to_json(item) for item in items]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value


def _renamed(value: Any, names: Mapping[str, str] | None) -> Any:
    if names is None:
        return value
    return [{names.get(key, key): item for key, item in one.items()} for one in value]
