"""The JSON Schemas of the documents that dsmops prints and writes, as they are shipped."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

from dsmops.errors import InputError

FOLDER = Path(__file__).resolve().parents[1] / "schemas"


@dataclass(frozen=True, slots=True)
class ListedSchema:
    """A schema by name, and where its documents come from."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class SchemaList:
    """All schemas, sorted by name."""

    schemas: tuple[ListedSchema, ...]


def list_schemas() -> SchemaList:
    """Return the names of all schemas and where their documents come from."""
    return SchemaList(
        tuple(
            ListedSchema(path.stem, json.loads(path.read_bytes())["$comment"].replace("`", ""))
            for path in sorted(FOLDER.glob("*.json"))
        )
    )


def schema_text(name: str) -> str:
    """Return the text of a schema. `name` may be that of a document: `dsmops.plan/1`.

    Raises:
        InputError: there is none; the hint names the nearest.
    """
    wanted = name.removeprefix("dsmops.").partition("/")[0]
    known = [path.stem for path in FOLDER.glob("*.json")]
    if wanted in known:
        return (FOLDER / f"{wanted}.json").read_text(encoding="utf-8")
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    raise InputError(
        f"no document is called {name!r}",
        hint=f"Did you mean {' or '.join(near)}?" if near else "`dsmops schema` lists them.",
        code="schema.unknown",
    )
