"""TOML documents in many layouts, with the line on which each key was written."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

Places = dict[tuple[str, ...], int]

_NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=4)
_VALUES = st.sampled_from(
    [
        "1",
        "-0.5",
        "true",
        '"text"',
        "'it''s'".replace("''", "#"),
        '"a \\" # b"',
        "2025-11-15",
        "[]",
        "[\n  1,  # one\n  2,\n]",
        '"""\ntwo\nlines"""',
        "{ x = 1, y = [2] }",
    ]
)
_TRAILS = st.sampled_from(["", "  # note", "\t"])
_GAPS = st.lists(st.sampled_from(["", "# comment", "  "]), max_size=2)


@st.composite
def documents(draw: Any) -> tuple[str, Places]:
    """Draw a document without duplicate keys: plain and dotted keys, tables, nested tables, tables
    out of order.
    """
    lines: list[str] = []
    places: Places = {}

    def write(text: str, *wheres: tuple[str, ...]) -> None:
        lines.extend(draw(_GAPS))
        for where in wheres:
            places.setdefault(where, len(lines) + 1)
        lines.extend(text.split("\n"))

    def write_keys(prefix: tuple[str, ...]) -> None:
        for name in draw(st.lists(_NAMES, max_size=4, unique=True)):
            indent, trail = draw(st.sampled_from(["", "  "])), draw(_TRAILS)
            if draw(st.booleans()):
                write(f"{indent}{name} = {draw(_VALUES)}{trail}", (*prefix, name))
            else:
                for inner in draw(st.lists(_NAMES, min_size=1, max_size=2, unique=True)):
                    write(
                        f"{indent}{name}.{inner}= {draw(_VALUES)}{trail}",
                        (*prefix, name),
                        (*prefix, name, inner),
                    )

    write_keys(())
    # Upper case keeps headers apart from keys.
    headers = draw(
        st.lists(
            st.lists(st.sampled_from(["M", "N", "P"]), min_size=1, max_size=3),
            max_size=5,
            unique_by=tuple,
        )
    )
    for header in headers:
        wheres = [tuple(header[:length]) for length in range(1, len(header) + 1)]
        write(f"[{'.'.join(header)}]{draw(_TRAILS)}", *wheres)
        write_keys(wheres[-1])
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text = newline.join(lines) + draw(st.sampled_from(["", newline]))
    return text, places
