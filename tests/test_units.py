"""Numbers with units, as people read them."""

import pytest

from dsmops.units import counted, duration, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "n/a"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (16 * 2**30, "16.0 GiB"),
        (2**40 * 2000, "2000 TiB"),
    ],
)
def test_sizes_are_binary_and_short(count: int | None, text: str) -> None:
    """Three significant digits, binary units."""
    assert size(count) == text


def test_durations_and_counts_read_well() -> None:
    """Milliseconds, seconds, minutes, hours; singular and plural."""
    assert [duration(value) for value in (0.085, 2.44, 185, 3720)] == [
        "85 ms",
        "2.4 s",
        "3 min 05 s",
        "1 h 02 min",
    ]
    assert [counted(value, "entry", "entries") for value in (0, 1, 1200)] == [
        "0 entries",
        "1 entry",
        "1,200 entries",
    ]
