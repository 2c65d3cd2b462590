"""What collectors, mail, diffs and servers put before the content of a line."""

from __future__ import annotations

import re

STAMP = r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d|)"
_TAG = r"[^\s:\[\]<\"]{1,100}(?:\[\d{1,10}\])?:"
# What syslog and the journal write as time.
_TIME = (
    rf"(?: {STAMP} | [A-Z][a-z]{{2}}\s{{1,2}}\d{{1,2}}\s[\d:.]{{8,15}} | \d{{10}}\.\d{{6}}"
    rf" | [A-Z][a-z]{{2}}\s{STAMP}\s[A-Z]\w{{1,5}} | \[\s{{0,8}}\d{{1,9}}\.\d{{6}}\] )"
)
PREFIX = re.compile(
    rf"""(?: ^ (?: \d{{1,6}}: | [ ]{{0,5}}\d{{1,6}}\t ) )? (?: \s* (?:
        {STAMP} \s (?: stdout | stderr ) \s [FP] (?:\s|$)
      | {STAMP} \s+ (?:TRACE|DEBUG|INFO|WARN|ERROR) \s [A-Za-z_][\w:]{{0,100}}: (?: \s \S{{1,300}}:\d{{1,9}}: )?
      | {STAMP} \s+ (?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL) \s+ [\w.:]{{1,100}} (?: \s- | : ) (?=\s)
      | {_TIME} \s (?: [^\s:\[\]]{{1,100}} \s )? {_TAG}
      | {STAMP} (?: \s [^\s\[]{{1,128}} ){{4}} \s (?: - | \[ [^\]]{{0,1000}} \] ) (?=\s|$)
      | {STAMP} \s \d\d[OE][+\s]
      | {STAMP} (?=\s)
      | \[ 20\d\d-\d\d-\d\d \s [^\]]{{1,60}} \] \s \[[^\]\s]{{1,9}}\] \s \[[^\]\s]{{1,100}}\] (?: \s \S{{1,300}}:\d{{1,9}}: )?
      | \[pod/[^\]\s]{{1,300}}\] | <\d{{1,3}}> (?: 1 \s )? | [\w./@-]{{1,100}} \s{{0,100}} \|(?=\s|$)
      | [+>|;*#-]{{1,3}} (?=[\s"'\w/<]|$) | // | /\* | \d{{1,6}} [:-] (?=\s)
    ) ){{0,6}} \s*""",
    re.ASCII | re.VERBOSE,
)
"""What collectors, mail, diffs, comments and servers put before a line of something longer; at the
start of the line also numbers of `grep -n` and `cat -n`."""


def inner_span(text: str) -> tuple[int, int]:
    """Return where in a line that is part of a block its own content begins and ends."""
    found = PREFIX.match(text)
    return found.end() if found else 0, len(text.rstrip())
