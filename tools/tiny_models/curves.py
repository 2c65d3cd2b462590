"""Draw training curves as SVG: `python -m tools.tiny_models.curves OUT TITLE KEY=LABEL... --
HISTORY.json...`.

Several histories are joined, one run after the other; the runs are marked. A KEY with slashes
is a path into nested values: `round_trip/cfg 2 temperature 0.3/wer_percent_all`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 300, 56, 40, 36
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")


def draw(title: str, labels: dict[str, str], runs: list[list[dict[str, Any]]]) -> str:
    """Return an SVG of the values `labels` over the seconds of training, on one linear scale."""
    seconds = [max(row["s"] for row in run) for run in runs]
    rows = [
        (sum(seconds[:number]) + row["s"], row)
        for number, run in enumerate(runs)
        for row in run
        if row["step"] > 3
    ]
    values = {
        key: [(second, found) for second, row in rows if (found := _value(row, key)) is not None]
        for key in labels
    }
    top = max(value for points in values.values() for _, value in points) * 1.05
    across = (_WIDTH - _LEFT - 20) / sum(seconds)
    up = (_HEIGHT - _BOTTOM - _TOP) / top

    def place(second: float, value: float) -> str:
        return f"{_LEFT + second * across:.1f},{_HEIGHT - _BOTTOM - value * up:.1f}"

    floor = _HEIGHT - _BOTTOM
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
            ' font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{title}</text>',
    ]
    for tick in range(5):
        value = top * tick / 4
        height = floor - value * up
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{height:.1f}" y2="{height:.1f}"'
            ' stroke="#ddd"/>'
        )
        parts.append(f'<text x="8" y="{height + 4:.1f}">{value:.2f}</text>')
    for number in range(len(runs)):
        start = _LEFT + sum(seconds[:number]) * across
        parts.append(
            f'<line x1="{start:.1f}" x2="{start:.1f}" y1="{_TOP}" y2="{floor}" stroke="#bbb"'
            ' stroke-dasharray="3 3"/>'
        )
        parts.append(
            f'<text x="{start + 4:.1f}" y="{floor + 16}">run {number + 1}: {seconds[number]:.0f}'
            " s</text>"
        )
    for (key, label), colour in zip(labels.items(), _COLOURS, strict=False):
        points = " ".join(place(*point) for point in values[key])
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        shown = list(labels).index(key)
        parts.append(
            f'<text x="{_WIDTH - 190}" y="{_TOP + 16 + 16 * shown}" fill="{colour}">{label}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _value(row: Any, key: str) -> float | None:
    """Return the number at a path of keys, None where there is none."""
    for part in key.split("/"):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def main() -> None:
    """Run the command."""
    out, title, *rest = sys.argv[1:]
    cut = rest.index("--")
    labels = dict(part.split("=", 1) for part in rest[:cut])
    runs = []
    for path in rest[cut + 1 :]:
        history = json.loads(Path(path).read_text())
        runs.append(history["training"] if isinstance(history, dict) else history)
    Path(out).write_text(draw(title, labels, runs))


if __name__ == "__main__":
    main()
