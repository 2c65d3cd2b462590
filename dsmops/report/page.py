"""A report as one HTML file: no script, no request, readable on a phone, in the dark and aloud."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dsmops.report.charts import COLOURS, Chart, svg
from dsmops.report.terminal import printable

_STYLE = (
    COLOURS
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
.answer{font-size:1.15rem;font-weight:600;border-left:.3rem solid var(--line-0);
padding:.25rem .75rem;margin:1rem 0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
figure{margin:0}
svg{width:100%;height:auto;display:block}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
caption{text-align:left;padding:.25rem 0}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--faint);text-align:left;white-space:nowrap}
th.number,td.number{text-align:right}
td:last-child:not(.number){white-space:normal;min-width:10rem}
dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem 1rem;margin:.5rem 0}
dt{font-weight:600}
summary{cursor:pointer;padding:.5rem 0}
dd{margin:0;overflow-wrap:anywhere}
"""
)
# The policy forbids what the page does not need, also in a browser that is older than its text.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, sections: Iterable[str], *, generator: str = "dsmops") -> str:
    """Return the document of some sections, which the functions below make.

    `generator` is the command that made it, by which others recognise it.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="generator" content="{_text(generator)}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_text(title)}</h1>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def answer(text: str) -> str:
    """Return the sentence that a reader looks for first."""
    return f'<p class="answer">{_text(text)}</p>'


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{_text(text)}</p>"


def heading(text: str) -> str:
    """Return the heading of a section."""
    return f"<h2>{_text(text)}</h2>"


def bullets(lines: Sequence[str]) -> str:
    """Return a list."""
    return "<ul>\n" + "\n".join(f"<li>{_text(line)}</li>" for line in lines) + "\n</ul>"


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """Return names with their values."""
    rows = "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in items)
    return f"<dl>\n{rows}\n</dl>"


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. A heading that ends in `>` is of numbers. The first column names the row."""
    numbers = [' class="number"' if name.endswith(">") else "" for name in headings]
    head = "".join(
        f'<th scope="col"{number}>{_text(name.removesuffix(">"))}</th>'
        for name, number in zip(headings, numbers, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<th scope="row"{number}>{_text(cell)}</th>'
            if place == 0
            else f"<td{number}>{_text(cell)}</td>"
            for place, (cell, number) in enumerate(zip(row, numbers, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" role="region" tabindex="0" '
        f'aria-label="{_text(caption)}"><table>\n<caption>{_text(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def details(summary: str, content: str) -> str:
    """Return a part that is closed until the reader opens it."""
    return f"<details>\n<summary>{_text(summary)}</summary>\n{content}\n</details>"


def figures(charts: Sequence[Chart]) -> str:
    """Return charts side by side, one below the other on a phone."""
    drawn = "\n".join(
        f"<figure>{svg(chart, f'chart-{number}')}</figure>" for number, chart in enumerate(charts)
    )
    return f'<div class="charts">\n{drawn}\n</div>'


def _text(text: str) -> str:
    return escape(printable(text))
