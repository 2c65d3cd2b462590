"""Private keys in PEM and PuTTY's format, on one line and over several."""

from __future__ import annotations

import re

from dsmops.logs.rules.prefixes import inner_span
from dsmops.logs.rules.rule import Edit, Rule

PEM_EDGE = "-{4,5}[ ]?%s[ ][A-Z0-9 ]{1,40}?[ ]?-{4,5}"
# To the next END, over a few BEGIN that never ended. No further: each BEGIN of a line would look at
# all that follows it.
_PEM_BODY_PART = r"""
    (?: [^\n-]++ | - (?! -{3,4}[ ]? (?: BEGIN[ ] | END[ ][A-Z0-9 ]{1,40}?[ ]?-{4,5} ) ) )*+
"""
PEM = Rule(
    "pem",
    needles=("----",),
    hint="----[ ]?BEGIN ",
    source=rf"""
    {PEM_EDGE % "BEGIN"} (?:
        (?: {_PEM_BODY_PART} -{{4,5}}[ ]?BEGIN[ ] ){{0,3}}+ {_PEM_BODY_PART} {PEM_EDGE % "END"}
      | [\w+/=\s\\:,.-]* )
""",
    edit=lambda match, _: Edit(*match.span(), "<pem>"),
)

# --- over several lines ----------------------------------------------------------------------------

_PEM_EDGES = re.compile(
    rf"(?=(?P<begin>{PEM_EDGE % 'BEGIN'})|(?P<end>{PEM_EDGE % 'END'})|(?P<putty>\bPrivate-Lines:[ ]\d))"
)
_PEM_CLOSE = re.compile(rf".*?{PEM_EDGE % 'END'}")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/]+={0,2}|(?:Proc-Type|DEK-Info|Comment): .*)\\?", re.ASCII)
_PEM_RUN = re.compile(
    r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40,}={0,2}|(?<=\\n)[A-Za-z0-9+/]+={0,2}(?=\\n|$)"
)
PEM_LINES = 256
"""A 16,384-bit RSA key takes about 200 lines of 64 characters; after this many an END that never
came is given up."""


def opens_pem(text: str) -> bool:
    """Return whether a key begins on a line that does not end on it."""
    begun = ended = -1
    for edge in _PEM_EDGES.finditer(text):
        if edge.lastgroup == "putty":
            return True
        if edge.lastgroup == "begin":
            begun = edge.end("begin")
        else:
            ended = edge.start()
    return begun > ended


def pem_edits(text: str) -> tuple[list[Edit], bool]:
    """Return what stands in place of the key in a line after BEGIN, and whether the key ends there.

    Without an edit the line is not part of the key: another line of the log came between.
    """
    begin, end = inner_span(text)
    if closing := _PEM_CLOSE.match(text, begin):
        return [Edit(begin, closing.end(), "<pem>")], True
    if begin < end and _PEM_BODY.fullmatch(text, begin, end):
        return [Edit(begin, end, "<pem>")], False
    return [Edit(*run.span(), "<pem>") for run in _PEM_RUN.finditer(text)], False
