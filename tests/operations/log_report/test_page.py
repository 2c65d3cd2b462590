"""The page of a report in a real browser: on a screen and a phone, light and dark, read aloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsmops.cli.views.log_report_page import html
from dsmops.operations.log_report import read_logs, with_comparison
from dsmops.operations.log_report.planned import served
from tests.operations.log_report.test_reading import line, made_up, write
from tests.support.browser import Watched, opened_browser

pytestmark = pytest.mark.slow


def page_of(folder: Path) -> str:
    """Return the page of a made-up server that fell behind once, beside a calmer day."""
    events = [
        line(20, "handling batched asr-streaming query", module="main"),
        line(20, "batched-asr ws query query=AsrStreamingQuery { auth_id: None }"),
        line(20, "no free channels", "ERROR"),
    ]
    new = write(folder / "log.stt.2026-01-02", made_up(3000) + "".join(events))
    calm = made_up(3000).replace(" 200.00ms", " 30.00ms")
    old = write(folder / "log.stt.2026-01-01", calm)
    known = served("t4", None, "stt-1b-en_fr")
    report = with_comparison(read_logs([new], known=known), read_logs([old], known=known))
    return html(report)


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """No request, no complaint, no sideways scrolling on a phone; every chart and table has a name
    and a text, and the headings are in order.
    """
    pytest.importorskip("matplotlib", reason="the extra plots is not installed")
    page_file = write(tmp_path / "report.html", page_of(tmp_path))
    with opened_browser() as context:
        watched = Watched(context, page_file.as_uri())
        page = watched.page
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colours = page.evaluate(
                "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name]"
                ".match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0))"
            )
            assert abs(colours[0] - colours[1]) > 400
            assert (colours[1] > 600) == (scheme == "light")
            for width in (390, 1000):
                page.set_viewport_size({"width": width, "height": 844})
                assert page.evaluate("document.documentElement.scrollWidth") == width
                assert page.locator("svg").first.bounding_box()["width"] > 0.4 * min(width, 800)
        page.set_viewport_size({"width": 390, "height": 844})
        sizes = page.evaluate(
            "[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)"
        )
        assert min(size for size in sizes if size) >= 8  # pixels, on a phone
        tree = context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        names = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree
            if not node["ignored"]
        ]
        charts = [name for role, name in names if role == "image"]
        assert [name.split(" At ")[0].split(" Median")[0] for name in charts[:2]] == [
            "Steps over time",
            "Streams over time",
        ]
        assert all(len(name) > 30 for name in charts)
        tables = [name for role, name in names if role == "table"]
        assert "What was compared" in tables
        assert "Times by streams with data" in tables
        assert all(tables)
        headings = [name for role, name in names if role == "heading"]
        assert headings[:2] == ["Server log report", "Over time"]
        assert page.locator("h1").count() == 1
        # What the charts show is there as a table, behind a summary that a keyboard opens.
        page.locator("summary").focus()
        page.keyboard.press("Enter")
        assert page.get_by_role("table", name="Steps and streams over time").is_visible()
        page.keyboard.press("Enter")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        page.emulate_media(color_scheme="dark")
        page.screenshot(path=tmp_path / "log-report-phone.png")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 900, "height": 1000})
        page.screenshot(path=tmp_path / "log-report.png")
        assert watched.complaints == []
        assert watched.asked == {page_file.as_uri()}
    # The pictures of runbooks/log-report.md were taken so.
    for picture in ("log-report.png", "log-report-phone.png"):
        assert (tmp_path / picture).stat().st_size > 10_000
