"""Turn the bytes of a line into text that is safe to show.

The text has no colours and no control characters and is valid UTF-8. Nothing is lost.
"""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_USUAL_COLOURS = ("\x1b[0m", "\x1b[2m", "\x1b[3m", "\x1b[32m")
"""What tracing writes on every line; 4 plain replacements are 5 times faster than the pattern on
its 18 codes a line.
"""

_BLANKS = " \t\r"
# C0 but for tab, DEL, C1, line and paragraph separators, the marks that turn text round (a line can
# lie with them), and halves of surrogate pairs, which JSON can spell and UTF-8 cannot.
HOLE_BYTES = 256
"""So many NUL in a row are a hole in a file, and are counted instead of spelled."""
_HOLE = re.compile(rf"\0{{{HOLE_BYTES},}}")
_SPELLED = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (
        *range(0x09), *range(0x0A, 0x20), *range(0x7F, 0xA0), 0x200E, 0x200F,
        *range(0x2028, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000),
    )
}  # fmt: skip
_CONTROL = re.compile(f"[{re.escape(''.join(map(chr, _SPELLED)))}]")


def decode(line: bytes) -> str:
    r"""Return a line's bytes as text; bytes that are not UTF-8 appear as `\xff`."""
    text = line.decode("utf-8", "backslashreplace")
    return text if line.isascii() else text.removeprefix("\ufeff")


def clean(text: str) -> str:
    r"""Return `text` without colours and blanks at its end, its control characters spelled out like
    `\x07`. Idempotent.
    """
    # A power cut leaves megabytes of NUL in a log; the pattern would take a second for each.
    text = without_colours(text).rstrip(_BLANKS)
    if "\0" in text:
        text = _HOLE.sub(_hole, text).replace("\0", "\\x00")
    if (text.isascii() and text.isprintable()) or not _CONTROL.search(text):
        return text
    return text.translate(_SPELLED)


def without_colours(text: str) -> str:
    """Return `text` without colour codes.

    Codes that only the removal of others puts together are removed too.
    """
    if "\x1b" in text:
        for code in _USUAL_COLOURS:
            text = text.replace(code, "")
    if "\x1b" in text:
        text = _COLOUR.sub("", text)
    return _without_nested(text) if "\x1b" in text and _COLOUR.search(text) else text


def _without_nested(text: str) -> str:
    """Return `text` without colour codes in one pass, however deep they are nested.

    Repeated passes would take hours for a hostile megabyte.
    """
    kept: list[str] = []
    for char in text:
        if char == "m":
            start = len(kept)
            while start and kept[start - 1] in "0123456789;":
                start -= 1
            if kept[max(0, start - 2) : start] == ["\x1b", "["]:
                del kept[start - 2 :]
                continue
        kept.append(char)
    return "".join(kept)


def _hole(match: re.Match[str]) -> str:
    return f"\\x00 ({len(match[0])} times)"
