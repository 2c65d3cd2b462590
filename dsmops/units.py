"""Numbers with units, as people read them."""

from __future__ import annotations


def size(count: int | None) -> str:
    """Return a byte count in binary units: `1.84 GiB`, `312 B`; `n/a` for None."""
    if count is None:
        return "n/a"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            return (
                f"{count} B"
                if unit == "B"
                else f"{amount:.{0 if amount >= 100 else 1 if amount >= 10 else 2}f} {unit}"
            )
        amount /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Return a duration: `85 ms`, `2.4 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return `1 tensor`, `135 tensors`, `0 entries`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
