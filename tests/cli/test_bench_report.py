"""The files of a load test: an HTML page that loads nothing, and pictures."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="the extra plots is not installed")

from dsmops.cli.views.bench_report import charts, html, render
from dsmops.operations.bench import (
    Failure,
    Level,
    Limits,
    LoadTest,
    Second,
    Spread,
    SttFigures,
    TtsFigures,
    Verdict,
    compare,
)
from dsmops.operations.bench.result import ClientDescription, ServerDescription
from dsmops.report.document import to_json

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "br", "link", "img", "input", "hr"}


def stt_level(streams: int, lag_ms: float, verdict: Verdict) -> Level:
    failures = () if verdict is Verdict.HELD else (Failure("max-lag", "p99 lag <b>", False),)
    series = tuple(Second(at, lag_ms, lag_ms * (1 + at % 3), 1.0) for at in range(20))
    lag = Spread(250, lag_ms, 2 * lag_ms, 3 * lag_ms, 4 * lag_ms)
    figures = SttFigures(lag, "step", 250, 250, 1.0, 0)
    return Level(
        *(streams, streams, 20, verdict, failures, figures, {}),
        *(Spread(9, 0.5, 1, 1, 1), 0.1, 13.7, series),
    )


def tts_level(streams: int) -> Level:
    first = Spread(9, 100, 200, 300, 400)
    figures = TtsFigures(first, 9, 9, 4.0 * streams, Spread(9, 4, 4, 4, 4), 3.0, 0, 0, None)
    series = tuple(Second(at, first_audio_p50_ms=90, speedup=4.0) for at in range(20))
    return Level(streams, streams, 20, Verdict.HELD, (), figures, {}, None, 0.1, None, series)


def load_test(*levels: Level, kind: str = "stt") -> LoadTest:
    return LoadTest(
        kind,
        ServerDescription('ws://<script>alert("1")</script>:8080/', "0.6.4", "batched_asr", 64, 0),
        ClientDescription(2, 4, True, "0.2"),
        datetime(2026, 1, 2, tzinfo=UTC),
        ("a & b.wav",),
        20,
        3,
        Limits(),
        levels,
        64,
        True,
        False,
        None,
        ("a note\x1b[31m",),
    )


STT = load_test(
    stt_level(1, 10, Verdict.HELD),
    stt_level(64, 20, Verdict.HELD),
    stt_level(128, 90, Verdict.FAILED),
)
TTS = load_test(tts_level(1), tts_level(32), kind="tts")


class Outline(HTMLParser):
    """Reads a page strictly: every tag that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.slow
@pytest.mark.parametrize("test", [STT, TTS], ids=["stt", "tts"])
def test_the_page_asks_for_nothing(test: LoadTest) -> None:
    """No script, no address to load from; text from outside stays text."""
    text = html(test)
    outline = Outline(text)
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "img", "iframe", "object"}
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert '<script>alert("1")' not in text
    assert "\x1b" not in text
    assert 'ws://<script>alert("1")</script>:8080/' in " ".join(outline.words)


@pytest.mark.slow
def test_the_page_is_read_aloud_on_a_phone_and_in_the_dark() -> None:
    """Language, width and colour scheme; each chart has a title and a text; tables have headers."""
    outline = Outline(html(STT))
    metas = [attrs for tag, attrs in outline.tags if tag == "meta"]
    assert ("html", {"lang": "en"}) in outline.tags
    assert any(attrs.get("name") == "viewport" for attrs in metas)
    assert any(attrs.get("content") == "light dark" for attrs in metas)
    assert "prefers-color-scheme:dark" in html(STT)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    drawn = [attrs for tag, attrs in outline.tags if tag == "svg"]
    assert len(drawn) == len(charts(STT)) == 3
    for attrs in drawn:
        assert attrs["role"] == "img"
        assert set((attrs["aria-labelledby"] or "").split()) <= set(ids)
    scopes = [attrs.get("scope") for tag, attrs in outline.tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    said = " ".join(outline.words)
    assert "p99: 30 ms at streams 1, 270 at 128, at most 270" in said
    assert "64 streams held every limit; 128 did not." in said
    # No colour is fixed: each comes from a variable that has a value for the dark.
    assert not re.search(r"(fill|stroke): ?#", html(STT))


@pytest.mark.slow
def test_charts_draw_the_values() -> None:
    """The points of the p99 line lie where their values are: higher means further up."""
    root = ElementTree.fromstring(render(STT, None, ".svg"))
    paths = [path for path in root.iter(f"{SVG}path") if "var(--line-2)" in path.get("style", "")]
    line = next(path for path in paths if path.get("d", "").count("L") == 2)
    ys = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", line.get("d", ""))]
    # 30, 60 and 270 ms; the axis is linear and points down.
    assert (ys[0] - ys[1]) / (ys[0] - ys[2]) == pytest.approx(30 / 240, abs=0.01)
    title = root.find(f"{SVG}title")
    assert title is not None
    assert "Lag by number of streams" in (title.text or "")


@pytest.mark.slow
def test_the_png_is_a_picture() -> None:
    """Three charts one below the other, wide enough to read."""
    data = render(STT, None, ".png")
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 700
    assert height > width


def test_one_level_has_a_chart_over_time_only() -> None:
    """A line through one point says nothing."""
    assert [chart.title for chart in charts(load_test(stt_level(8, 9, Verdict.HELD)))] == [
        "Lag over time, p99 of each second"
    ]


def test_a_comparison_is_in_the_page() -> None:
    """Twice the lag is worse; the same is within noise."""
    before = load_test(stt_level(64, 20, Verdict.HELD), stt_level(1, 10, Verdict.HELD))
    after = load_test(stt_level(64, 40, Verdict.HELD), stt_level(1, 10, Verdict.HELD))
    found = compare(after, to_json(before), "old.json")
    verdicts = {(change.streams, change.figure): change.is_better for change in found.changes}
    assert verdicts[64, "lag p50, ms"] is False
    assert verdicts[1, "lag p50, ms"] is None
    words = Outline(html(after, found)).words
    assert {"worse", "within noise", "+100.0 %"} <= set(words)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [500, 1100])
def test_a_browser_shows_the_page(width: int, tmp_path: Path) -> None:
    """Headless Chromium renders it, without a word on its console and no wider than the window."""
    page = tmp_path / "page.html"
    # A script of the test itself, which the page's own policy would refuse.
    text = re.sub(r"<meta http-equiv[^>]*>", "", html(STT))
    measure = "<script>document.title=String(document.documentElement.scrollWidth)</script>"
    page.write_text(text.replace("</body>", f"{measure}</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    found = re.search(r"<title>(\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= width
    assert done.stdout.count("<svg") == 3
