"""Two load tests side by side: what changed, and what of it is more than noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmops.errors import InputError
from dsmops.files import os_errors, require_file
from dsmops.operations.bench.result import LoadTest
from dsmops.operations.bench.statistics import Difference, differ

SCHEMA = "dsmops.bench/1"
_SERIES = {
    "stt": (
        ("lag_p50_ms", "lag p50, ms", False),
        ("lag_p99_ms", "lag p99, ms", False),
        ("kept_share", "kept share", True),
    ),
    "tts": (
        ("first_audio_p50_ms", "first audio p50, ms", False),
        ("speedup", "× real time in all", True),
    ),
}
"""The figures that are known second by second, their names, and whether more is better."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure at one number of streams. `is_better` None: no difference beyond noise."""

    streams: int
    figure: str
    difference: Difference
    is_better: bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against an older one. `old_knee` is its knee; `unlike` says what else differs."""

    against: str
    old_knee: int | None
    changes: tuple[Change, ...]
    unlike: tuple[str, ...]


def read_old(path: Path, kind: str) -> dict[str, Any]:
    """Return the document of an older run of the same kind.

    Raises:
        SourceError, FileAccessError: the file is not there, or cannot be read.
        InputError: it is not such a document.
    """
    require_file(path, "result")
    with os_errors(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return _checked(json.loads(text), kind)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        what = f"the key {exc} is missing" if isinstance(exc, KeyError) else str(exc)
        raise InputError(
            f"{path} is not a result to compare with: {what}",
            hint="Write one with `dsmops bench URL -o FILE.json`.",
            code="bench.not_comparable",
        ) from exc


def _checked(body: Any, kind: str) -> dict[str, Any]:
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    if body["kind"] != kind:
        raise ValueError(f"it is of kind {body['kind']}, and this run is {kind}")
    for level in body["levels"]:
        int(level["streams"])
        if not all(isinstance(each, dict) for each in level["series"]):
            raise ValueError("a series does not hold objects")
    return body


def compare(new: LoadTest, old: Mapping[str, Any], name: str) -> Comparison:
    """Return the differences at each number of streams that both runs measured."""
    before = {int(level["streams"]): level["series"] for level in old["levels"]}
    changes = []
    for level in new.levels:
        for key, figure, more_is_better in _SERIES[new.kind]:
            first = _values([each.get(key) for each in before.get(level.streams, [])])
            second = _values([getattr(each, key) for each in level.series])
            if not first or not second:
                continue
            found = differ(first, second)
            is_better = (found.new > found.old) == more_is_better if found.beyond_noise else None
            changes.append(Change(level.streams, figure, found, is_better))
    knee = old.get("knee")
    return Comparison(
        name, knee if isinstance(knee, int) else None, tuple(changes), tuple(_unlike(new, old))
    )


def _values(values: Sequence[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float)]


def _unlike(new: LoadTest, old: Mapping[str, Any]) -> list[str]:
    """Return what makes the two runs less comparable."""
    client, material = old.get("client") or {}, old.get("material")
    pairs = (
        ("recordings or texts", material, list(new.material)),
        ("client processes", client.get("processes"), new.client.processes),
        ("cores of the client", client.get("cores"), new.client.cores),
        ("client on the server's host", client.get("is_same_host"), new.client.is_same_host),
        ("warm-up, s", old.get("warm_up_s"), new.warm_up_s),
    )
    return [f"{name}: {before}, now {now}" for name, before, now in pairs if before != now]
