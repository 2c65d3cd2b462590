"""Count the lines of clean text that redaction touches: `python -m tools.false_alarms PATH...`.

Give it logs and other text without secrets: of package managers, kernels, servers, test runs,
changelogs. Folders are read whole, gzip and zstd and xz too, `-` is standard input. Addresses, mail
addresses and home folders in such text are real, so rules that find people are counted apart from
rules that find secrets. The exit code is 1 where secrets were "found" in more than one line in a
thousand.
"""

from __future__ import annotations

import argparse
import lzma
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dsmops.logs import Redactor, decompressed
from dsmops.logs.redaction import SECRET_RULES

BUDGET = 0.001
"""Largest share of lines without a secret in which a rule may find one."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--show", type=int, default=0, help="print so many touched lines")
    parser.add_argument("--most", type=int, default=50_000, help="lines of a file that are read")
    given = parser.parse_args()
    lines, secret, people = 0, 0, 0
    rules: Counter[str] = Counter()
    shown = 0
    for path in _files(given.paths):
        redactor = Redactor(b"a key to count with")
        for number, line in enumerate(_lines(path)):
            if number >= given.most:
                break
            lines += 1
            before = Counter(redactor.counts)
            out = redactor.line(line)
            hits = redactor.counts - before
            if out == line or not hits:
                continue
            rules.update(hits)
            if SECRET_RULES.isdisjoint(hits):
                people += 1
                continue
            secret += 1
            if shown < given.show:
                shown += 1
                print(f"{path}:{number + 1}: {line.strip()[:200]}\n    -> {out.strip()[:200]}")
    print(f"lines: {lines}")
    print(f"touched as secrets: {secret} ({100 * secret / max(lines, 1):.4f} %)")
    print(f"touched as people: {people}")
    print("by rule:", dict(rules.most_common()))
    return int(secret > BUDGET * lines)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*") if found.is_file())
        else:
            yield path


def _lines(path: Path) -> Iterator[str]:
    if str(path) == "-":
        data = sys.stdin.buffer.read()
    else:
        data = path.read_bytes()
        if path.suffix == ".xz":
            data = lzma.decompress(data)
        elif path.suffix in (".gz", ".zst"):
            with path.open("rb") as file:
                data = b"".join(decompressed(file, str(path)))
    if b"\0" in data[:4096]:  # Not text.
        return
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        yield line.removesuffix("\r")


if __name__ == "__main__":
    sys.exit(main())
