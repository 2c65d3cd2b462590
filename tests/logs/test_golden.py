"""Golden logs: what each dialect becomes, as text and as JSON Lines.

`--update-golden` rewrites them; read the difference like code.
"""

from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from dsmops.logs import Clock, Formatter, Redactor, Style

FOLDER = Path(__file__).resolve().parents[1] / "data" / "logs"
KEY = b"a key for golden logs"
ZONES: dict[str, tzinfo] = {
    "local-time": ZoneInfo("America/New_York"),
    "json-lines": ZoneInfo("America/New_York"),
    "icons": ZoneInfo("America/New_York"),
    "clocks-go-back": ZoneInfo("America/New_York"),
    "colours": ZoneInfo("Europe/Paris"),
}
"""The zone of each case, UTC where it is not here."""

CASES = sorted(path.stem for path in FOLDER.glob("*.log"))


@pytest.mark.parametrize("style", ["plain", "jsonl"])
@pytest.mark.parametrize("case", CASES)
def test_a_log_becomes_what_it_was_agreed_to_become(
    case: str, style: str, request: pytest.FixtureRequest
) -> None:
    """Every dialect, nasty cases included, redacted under a fixed key: byte for byte what is kept
    beside it.
    """
    formatter = Formatter(
        Style(Clock(ZONES.get(case, UTC)), jsonl=style == "jsonl"), redactor=Redactor(KEY)
    )
    got = formatter.feed((FOLDER / f"{case}.log").read_bytes()) + formatter.flush()
    golden = FOLDER / f"{case}.{style}"
    if request.config.getoption("--update-golden"):
        golden.write_bytes(got)
    assert got == golden.read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_formatting_a_formatted_log_changes_nothing(case: str) -> None:
    """What came out goes in again and comes out the same, with the same zone and key."""
    once = (FOLDER / f"{case}.plain").read_bytes()
    formatter = Formatter(Style(Clock(ZONES.get(case, UTC))), redactor=Redactor(KEY))
    assert formatter.feed(once) + formatter.flush() == once
    assert not formatter.redactions


def test_the_cases_are_there() -> None:
    """Each dialect of the reference has a golden log."""
    assert {
        "colours",
        "no-color",
        "spans",
        "registry-path",
        "local-time",
        "json-lines",
        "icons",
        "compose",
        "python",
        "formatted",
    } <= set(CASES)
