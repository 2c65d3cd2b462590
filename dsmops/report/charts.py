"""Charts as SVG or PNG, drawn by matplotlib, which the extra `plots` brings.

An SVG takes its colours from CSS variables, so that it follows light and dark mode, and carries a
title and a description for screen readers. Lines differ in marker and dash as well as in colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from dsmops.errors import ExtraMissingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _FAINT, _PAPER = "#0a0b0c", "#0d0e0f", "#fafbfc"
"""Stand-ins that no other colour equals. Each is replaced by a variable in an SVG."""
_LINES = ("#1a0001", "#1a0002", "#1a0003", "#1a0004", "#1a0005", "#1a0006")
_LIGHT = ("#0072b2", "#d55e00", "#007f5f", "#a0529c", "#8a6d00", "#444444")
_DARK = ("#56b4e9", "#ff9a56", "#2fd0a0", "#e89ac7", "#f0e442", "#cccccc")
"""Okabe and Ito's colours, which people tell apart who do not see red and green."""
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_WIDTH_IN, _HEIGHT_IN = 5.0, 3.1
"""Narrow, so that its text is still readable on a phone."""
_LABEL_GAP = 0.6
"""Of two neighbours on a logarithmic axis: closer ones would touch."""
_FONT = "system-ui, sans-serif"

COLOURS = (
    ":root{--ink:#1b1f24;--faint:#c9ced6;--paper:#ffffff;"
    + "".join(f"--line-{number}:{colour};" for number, colour in enumerate(_LIGHT))
    + "}@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--faint:#444b55;--paper:#14171b;"
    + "".join(f"--line-{number}:{colour};" for number, colour in enumerate(_DARK))
    + "}}"
)
"""The CSS variables of charts and pages."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; None is a gap."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw. `limit` is a line to stay below, `description` says what is seen."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    description: str
    limit: tuple[str, float] | None = None
    has_log_x: bool = False


def require_charts() -> None:
    """Check that charts can be drawn.

    Raises:
        ExtraMissingError: matplotlib is not installed.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as exc:
        raise ExtraMissingError("drawing charts", "matplotlib", extra="plots") from exc


def svg(chart: Chart, name: str) -> str:
    """Return a chart as an SVG element to put into a page. `name` makes its ids unique."""
    text = _drawn([chart], "svg").decode()
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = _with_variables(body)
    head = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-description" '
        f'viewBox="0 0 {72 * _WIDTH_IN:g} {72 * _HEIGHT_IN:g}" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{name}-title">{escape(chart.title)}</title>'
        f'<desc id="{name}-description">{escape(chart.description)}</desc>'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)


def svg_file(charts: Sequence[Chart]) -> bytes:
    """Return charts one below the other as a file of its own."""
    text = _with_variables(_drawn(charts, "svg").decode())
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    about = ". ".join(f"{chart.title}: {chart.description}" for chart in charts)
    extra = f"<title>{escape(about)}</title><style>{COLOURS} svg{{background:var(--paper)}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + extra, text, count=1).encode()


def png_file(charts: Sequence[Chart]) -> bytes:
    """Return charts one below the other as a picture."""
    return _drawn(charts, "png")


def _with_variables(text: str) -> str:
    for colour, name in (
        *((_INK, "ink"), (_FAINT, "faint"), (_PAPER, "paper")),
        *((colour, f"line-{number}") for number, colour in enumerate(_LINES)),
    ):
        text = text.replace(colour, f"var(--{name})")
    return re.sub(r"font: ?([^;\"]*?)px [^;\"]*", rf"font: \1px {_FONT}", text)


def _drawn(charts: Sequence[Chart], form: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    is_svg = form == "svg"
    ink, faint, paper = (_INK, _FAINT, _PAPER) if is_svg else ("#1b1f24", "#c9ced6", "#ffffff")
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dsmops",
        "font.size": 9,
        "axes.titlesize": 10,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.edgecolor": faint,
        "grid.color": faint,
        "axes.facecolor": "none" if is_svg else paper,
        "figure.facecolor": "none" if is_svg else paper,
        "legend.facecolor": paper,
        "legend.edgecolor": faint,
    }
    with mpl.rc_context(settings):
        figure = Figure((_WIDTH_IN, _HEIGHT_IN * len(charts)), layout="constrained")
        _draw(figure, charts, _LINES if is_svg else _LIGHT, ink)
        out = io.BytesIO()
        figure.savefig(out, format=form, dpi=160, metadata={"Date": None} if is_svg else None)
    return out.getvalue()


def _draw(figure: Figure, charts: Sequence[Chart], colours: Sequence[str], ink: str) -> None:
    for number, chart in enumerate(charts, 1):
        axes = figure.add_subplot(len(charts), 1, number)
        for place, line in enumerate(chart.lines):
            style = place % len(colours)
            ys = [float("nan") if value is None else value for value in line.ys]
            axes.plot(
                line.xs,
                ys,
                label=line.label,
                color=colours[style],
                linestyle=_DASHES[style],
                marker=_MARKERS[style],
                markersize=4 if len(ys) <= 40 else 0,
                linewidth=1.6,
            )
        if chart.limit is not None:
            label, level = chart.limit
            axes.axhline(level, color=ink, linewidth=1, linestyle=(0, (2, 2)), label=label)
        axes.set_title(chart.title, loc="left", fontweight="bold")
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.set_ylim(bottom=0)
        if chart.has_log_x:
            axes.set_xscale("log", base=2)
            xs = sorted({x for line in chart.lines for x in line.xs}, reverse=True)
            shown: list[float] = []
            for x in xs:
                if not shown or x <= _LABEL_GAP * shown[-1]:
                    shown.append(x)
            axes.set_xticks(shown, [f"{x:g}" for x in shown])
            axes.minorticks_off()
        else:
            axes.locator_params(axis="x", integer=True)
        axes.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if len(chart.lines) > 1 or chart.limit is not None:
            axes.legend(fontsize=8, framealpha=0.85)
