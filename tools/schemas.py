"""Write dsmops/schemas/*.json and runbooks/schemas.md from the classes of the documents.

`DOCUMENTS` has a row for each document that a command prints with `--json` or writes into a file.
The schema follows from the annotations of its class. Run it by `make docs`.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from dsmops.checkpoint import ConversionReport, VerifyReport
from dsmops.checkpoint.export import ExportReport
from dsmops.checkpoint.export.outcome import ExportOutcome
from dsmops.checkpoint.inspection import Inspection
from dsmops.checkpoint.result import ConversionResult
from dsmops.config.lint import LintReport
from dsmops.config.plan import ServingPlan
from dsmops.devices import ComputeCapability
from dsmops.gpu import GpuReport
from dsmops.logs import FormatReport, FormatReports
from dsmops.operations.bench import Comparison, EngineTest, LoadTest
from dsmops.operations.configs.checking import ConfigCheck
from dsmops.operations.configs.writing import WriteOutcome
from dsmops.operations.doctor import Diagnosis
from dsmops.operations.fleet import FleetReport
from dsmops.operations.log_report import LogReport
from dsmops.operations.models.tts import VoiceList
from dsmops.operations.page import ShownPage
from dsmops.operations.prepare import PrepareReport
from dsmops.operations.publishing import PublishReport, PullReport
from dsmops.operations.runbooks import Page
from dsmops.operations.schemas import FOLDER, SchemaList
from dsmops.operations.smoke import SmokeReport
from dsmops.operations.speech.evaluation import Evaluation
from dsmops.operations.speech.many.run_folder import Note, RunSettings
from dsmops.operations.speech.many.synthesizing import SynthesisRun, SynthesisRunSettings
from dsmops.operations.speech.many.transcribing import TranscriptionRun
from dsmops.operations.speech.numerics_verdict import NumericsReport
from dsmops.operations.speech.synthesis_result import Synthesis
from dsmops.operations.speech.transcription import Transcription
from dsmops.operations.up.control import Server
from dsmops.publish.manifest import Entry
from dsmops.worker.serving.addresses import Listening

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "runbooks" / "schemas.md"

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    # A number that is not finite is printed as null.
    float: {"type": ["number", "null"]},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Path: {"type": "string"},
    ComputeCapability: {"type": "string"},
    datetime: {"type": "string"},
    Any: {},
    object: {},
}


# Documents that the code has no class for.


class MadeConfigDocument(TypedDict):
    """The config that was made, its plan and its lint. `text` is there without a file."""

    outcome: WriteOutcome
    path: str | None
    text: str | None
    plan: ServingPlan | None
    lint: LintReport


class Ended(TypedDict):
    """Whether `down` ended a server, and which process that was."""

    ended: bool
    pid: int | None


class Skipped(TypedDict):
    """What `--skip-when-undetected` does without a card: nothing, for this reason."""

    outcome: Literal["skipped"]
    reason: str


class PageList(TypedDict):
    """All pages of the runbooks."""

    pages: list[Page]


class Problem(TypedDict):
    """Why a command failed. `code` is short and stable."""

    code: str
    message: str
    hint: str


class Failure(TypedDict):
    """What a command prints on stderr when it fails."""

    error: Problem


class StepPoint(TypedDict):
    """The 99th percentile of a step at one number of streams."""

    batch_size: int
    step_p99_ms: float


class StepProfile(TypedDict):
    """Measured steps of a model on a device.

    Only text-to-speech has `n_q`; `weights` and `kv` are there where they are "int8".
    """

    device_name: str
    model: str
    dtype: str
    runtime: str
    n_q: NotRequired[int]
    weights: NotRequired[str]
    kv: NotRequired[str]
    points: list[StepPoint]


class LogManifest(TypedDict):
    """What a run put into a store, and which older manifests this one replaces.

    `columns` names the values of an entry.
    """

    written: str
    replaces: list[str]
    columns: list[str]
    entries: list[Entry]


class LogRecordLine(TypedDict):
    """One record of a log. `short_file` is there where `file` is a path of cargo's registry."""

    time: str | None
    level: str | None
    target: str | None
    file: str | None
    short_file: NotRequired[str]
    line: int | None
    spans: str | None
    message: str
    continuation: list[str]
    service: str | None
    format: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One document: where it comes from, its classes, and keys that its writer adds to them."""

    source: str
    classes: tuple[Any, ...]
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stamped: bool = True
    """Whether it has the key `schema`."""


def _row(source: str, *classes: Any, stamped: bool = True, **more: Any) -> Row:
    return Row(source, classes, more, stamped)


DOCUMENTS: dict[str, Row] = {
    "bench": _row(
        "`bench`, also `-o FILE.json`",
        LoadTest,
        EngineTest,
        comparison=NotRequired[Comparison | None],
    ),
    "check-config": _row("`check-config`", ConfigCheck),
    "check-gpu": _row("`check-gpu`", GpuReport),
    "conversion-record": _row("`FILE.dsmops.json` beside a converted file", ConversionReport),
    "convert": _row("`convert`, also `--report FILE`", ConversionResult),
    "doctor": _row("`doctor`", Diagnosis),
    "down": _row("`down`", Ended),
    "error": _row("every command that fails, on stderr", Failure, stamped=False),
    "evaluate": _row("`evaluate`", Evaluation),
    "export": _row("`export`, also `--report FILE`", ExportOutcome),
    "export-record": _row("`FILE.dsmops.json` beside an exported file", ExportReport),
    "fleet": _row("`fleet`", FleetReport),
    "format-log": _row("`format-log`", FormatReport, FormatReports),
    "inspect": _row("`inspect`", Inspection),
    "log-manifest": _row("`publish-logs`, into the store", LogManifest),
    "log-record": _row("`format-log --jsonl`, one a line", LogRecordLine),
    "log-report": _row("`log-report`, also `-o FILE.json`", LogReport),
    "make-config": _row("`make-config`", MadeConfigDocument),
    "page": _row("`page`", ShownPage),
    "plan": _row("`plan`", ServingPlan),
    "prep-sm75": _row("`prep-sm75`", PrepareReport, Skipped),
    "publish-logs": _row("`publish-logs`", PublishReport),
    "pull-logs": _row("`pull-logs`", PullReport),
    "runbook": _row("`runbook`", Page, PageList),
    "schema": _row("`schema`, the list", SchemaList),
    "smoke-test": _row("`smoke-test`", SmokeReport),
    "status": _row("`status`", Server),
    "step-profile": _row("`plan --measure`, read by `plan --profile`", StepProfile),
    "synthesize": _row("`synthesize`", Synthesis),
    "synthesize-many": _row("`synthesize --output-dir`", SynthesisRun),
    "synthesis-run": _row(
        "`synthesize --output-dir`, `.dsmops-run/run.json`", SynthesisRunSettings
    ),
    "transcribe": _row("`transcribe`, also `-o FILE.json`", Transcription),
    "transcribe-many": _row("`transcribe --output-dir`", TranscriptionRun),
    "transcription-note": _row(
        "`transcribe` and `synthesize --output-dir`, one a line of `.dsmops-run/notes/`",
        Note,
        stamped=False,
    ),
    "transcription-run": _row("`transcribe --output-dir`, `.dsmops-run/run.json`", RunSettings),
    "up": _row("`up`", Server),
    "verify": _row("`verify`", VerifyReport, numerics=NumericsReport | None),
    "voices": _row("`voices`", VoiceList),
    "worker": _row("`worker`", Listening),
}


class _Schemas:
    """Makes the schema of one document and collects the definitions that it refers to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._owners: dict[str, Any] = {}
        self._item_names: dict[Any, Mapping[str, str]] = {}
        """Other names of keys, by the class of the objects that a field lists."""

    def of(self, annotation: Any) -> dict[str, Any]:
        """Return the schema of what an annotation allows."""
        if annotation in _SCALARS:
            return dict(_SCALARS[annotation])
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (typing.Annotated, NotRequired):
            return self.of(arguments[0])
        if origin is tuple and arguments[-1] is not Ellipsis:
            return self._row_of(arguments)
        if origin is not None and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin is not None:
            return {"type": "array", "items": self.of(arguments[0])}
        if issubclass(annotation, Enum):
            return {"enum": [member.value for member in annotation]}
        if hasattr(annotation, "_fields"):
            return self._row_of(list(_hints(annotation).values()))
        return self._reference(annotation)

    def _union(self, members: tuple[Any, ...]) -> dict[str, Any]:
        schemas = [self.of(member) for member in members]
        if all(set(schema) == {"type"} for schema in schemas):
            names = [
                name
                for schema in schemas
                for name in (
                    [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
                )
            ]
            return {"type": list(dict.fromkeys(names))}
        return {"anyOf": schemas}

    def _row_of(self, members: Any) -> dict[str, Any]:
        schemas = [self.of(member) for member in members]
        return {"type": "array", "prefixItems": schemas, "items": False, "minItems": len(schemas)}

    def _reference(self, kind: Any) -> dict[str, Any]:
        name = kind.__name__
        if self._owners.setdefault(name, kind) is not kind:
            raise TypeError(f"two classes of one document are called {name}")
        if name not in self.definitions:
            self.definitions[name] = {}  # so that a class may hold itself
            self.definitions[name] = self.object(kind)
        return {"$ref": f"#/$defs/{name}"}

    def object(self, kind: Any, more: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
        """Return the schema of a dataclass or a TypedDict, with further keys."""
        hints = {**_hints(kind), **more}
        names = {name: name for name in hints}
        required = {
            name for name, hint in hints.items() if typing.get_origin(hint) is not NotRequired
        }
        if dataclasses.is_dataclass(kind):
            fields = dataclasses.fields(kind)
            names = {field.name: field.metadata.get("json", field.name) for field in fields}
            names |= {**{name: name for name in more}, **self._item_names.get(kind, {})}
            for field in fields:
                if "items" in field.metadata:
                    (item, *_) = typing.get_args(hints[field.name])
                    self._item_names[item] = field.metadata["items"]
        return {
            "type": "object",
            "description": _summary(kind),
            "properties": {names[name]: self.of(hints[name]) for name in names},
            "required": [names[name] for name in names if name in required],
            "additionalProperties": False,
        }


def _summary(kind: Any) -> str:
    """Return the first paragraph of a class's docstring as one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


@cache
def _sources(module: str) -> dict[str, str]:
    """Return name → module of what a module imports for its annotations only."""
    return {
        alias.asname or alias.name: str(inner.module)
        for node in ast.parse(inspect.getsource(sys.modules[module])).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }


class _CheckedNames(dict[str, Any]):
    """Names that a class's module imports for annotations, imported when one is looked up."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self._modules = [base.__module__ for base in kind.__mro__ if base is not object]

    def __missing__(self, name: str) -> Any:
        for module in self._modules:
            if module.startswith("dsmops.") and name in _sources(module):
                return getattr(importlib.import_module(_sources(module)[name]), name)
        raise KeyError(name)


def _hints(kind: Any) -> dict[str, Any]:
    """Return the annotations of a class and its bases."""
    return typing.get_type_hints(kind, localns=_CheckedNames(kind), include_extras=True)


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document."""
    row, schemas = DOCUMENTS[name], _Schemas()
    kinds = [schemas.object(kind, row.more) for kind in row.classes]
    for kind in kinds if row.stamped else ():
        kind["properties"] = {"schema": {"const": f"dsmops.{name}/1"}, **kind["properties"]}
        kind["required"].insert(0, "schema")
    body = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    head = {"$schema": _DIALECT, "$id": f"urn:dsmops:schema:{name}:1", "$comment": row.source}
    definitions = (
        {"$defs": dict(sorted(schemas.definitions.items()))} if schemas.definitions else {}
    )
    return {**head, **body, **definitions}


_HEAD = """# JSON documents

Generated from the classes of the documents by `make docs`; edit `tools/schemas.py`.

Commands print one document on stdout with `--json`. Its key `schema` says which it is and which
version: `dsmops.plan/1`. A new key leaves the version; a changed meaning raises it. Times are UTC
in ISO 8601, units are in the names of keys, and `null` is unknown. Every document has a JSON Schema
(draft 2020-12) in the package:

```shell
dsmops schema          # lists them
dsmops schema plan     # prints one
dsmops schema plan > plan.schema.json
```

The tests validate the documents that they make against these schemas.

| Schema | Where the document comes from | What it is |
|---|---|---|"""


def page() -> str:
    """Return the page that lists the schemas."""
    lines = [_HEAD]
    for name, row in DOCUMENTS.items():
        summary = " ".join(filter(None, map(_summary, row.classes)))
        lines.append(f"| `{name}` | {row.source} | {summary} |")
    return "\n".join([*lines, ""])


def generated() -> dict[Path, str]:
    """Return what each generated file must hold."""
    made = {
        FOLDER / f"{name}.json": f"{json.dumps(schema(name), indent=1, ensure_ascii=False)}\n"
        for name in DOCUMENTS
    }
    return {**made, PAGE: page()}


def outdated() -> list[Path]:
    """Return the files that differ from what the classes say, and those of no document."""
    made = generated()
    wrong = [
        path
        for path, text in made.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    return wrong + [path for path in sorted(FOLDER.glob("*.json")) if path not in made]


def write() -> None:
    """Write every generated file, and remove those of no document."""
    for path in outdated():
        path.unlink(missing_ok=True)
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
