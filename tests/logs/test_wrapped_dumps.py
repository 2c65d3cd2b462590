"""What programs print of a secret stays hidden inside what collectors, mail and editors add.

A case is one printer, one wrapper, and a name, an everyday value and a place drawn for the two.
"""

from __future__ import annotations

import csv
import html
import io
import json
import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from dsmops.logs import redact
from tests.logs.dumps import EVERYDAY, FLAT, OBJECTS, UNCLEAR, samples
from tests.logs.wrapping import NAMED_WRAPS, WRAPS, Wrap, nano, times

KEY = b"a key for tests only"
PRINTERS = {**OBJECTS, **FLAT}


def _before(prefix: str, after: str = "") -> Wrap:
    return lambda lines: (f"{prefix}{line}{after}" for line in lines)


def _each(change: Callable[[str], str]) -> Wrap:
    return lambda lines: map(change, lines)


def _numbered(lines: Iterable[str]) -> Iterator[str]:
    yield from (f"{number:6}\t{line}" for number, line in enumerate(lines, 1))


def _grep(lines: Iterable[str]) -> Iterator[str]:
    yield from (f"{number}:{line}" for number, line in enumerate(lines, 1))


def _gitlab(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time:%Y-%m-%dT%H:%M:%S.%f}Z 00O {line}"


def _csv(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        out = io.StringIO()
        csv.writer(out, lineterminator="").writerow([nano(time), "stt", json.dumps({"log": line})])
        yield out.getvalue()


def _json(**more: str) -> Wrap:
    return _each(lambda line: json.dumps({**more, "message": line}))


WRAPPERS: dict[str, Wrap] = {
    **{name: wrap for name, wrap in WRAPS.items() if not name.endswith("_small")},
    **{name: wrap for name, (wrap, _) in NAMED_WRAPS.items()},
    "docker compose logs": _before("stt-1  | "),
    "tracing": _before("2025-11-15T08:39:03.595169Z  INFO moshi_server::asr: src/asr.rs:12: "),
    "friendly": _before("[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] "),
    "diff, added": _before("+"),
    "diff, removed": _before("-"),
    "mail": _before("> "),
    "mail, answered": _before("> > "),
    "bullets": _before("* "),
    "shell comment": _before("# "),
    "C comment": _before("// "),
    "cat -n": _numbered,
    "grep -n": _grep,
    "GitHub Actions": _before("2025-11-15T08:39:03.5951691Z "),
    "GitLab": _gitlab,
    "indented": _before("        "),
    "coloured": _before("\x1b[32m", "\x1b[0m"),
    "Python logging": _before("2025-11-15 08:39:03,595 INFO app.main - "),
    "HTML": _each(html.escape),
    "JSON": _json(level="info"),
    "JSON of a program in docker": lambda lines: WRAPS["docker_json"](_json(level="info")(lines)),
    "JSON in a cell of CSV": _csv,
}
"""The small ones cut lines in pieces: of these only the unwrapped log can be clean."""


def wrapped_dumps(wrapper: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield a printer, what a collector makes of its text, and the parts of the secret in it."""
    for name, printer in PRINTERS.items():
        if name in UNCLEAR:
            continue
        for sample in samples(name, printer, EVERYDAY, 1, random.Random(f"{wrapper} {name}")):
            lines = WRAPPERS[wrapper](sample.text.replace("\r\n", "\n").split("\n"))
            yield name, "".join(f"{line}\n" for line in lines), sample.parts


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_no_wrapped_printer_shows_an_everyday_secret(wrapper: str) -> None:
    """Whatever program printed it, whatever collector put around its lines."""
    left = {}
    for name, text, parts in wrapped_dumps(wrapper):
        once = redact(text.encode(), KEY).data
        if any(part.encode() in once for part in parts):
            left[name] = f"{text}---\n{once.decode()}"
        assert redact(once, KEY).data == once, name
    assert not left, "\n===\n".join(f"{name}\n{shown}" for name, shown in left.items())
