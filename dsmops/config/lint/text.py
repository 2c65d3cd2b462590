"""Rules about the characters in names and values: what no path, key or route can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dsmops.config.lint.inputs import LintInputs
from dsmops.config.lint.report import Findings, finding
from dsmops.config.load import Config, KeyPath

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"(?![\n\r\t])" + _CONTROL.pattern)
_NAMES = {"\0": "a NUL", "\n": "a line break", "\r": "a carriage return", "\t": "a tab"}
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[^/\\]*[\x00-\x1f]")
"""A path such as C:\\temp, in which TOML read `\\t` as a tab."""


def control_characters(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report control characters in any string or name.

    Text for a script of the operator's own may have line breaks and tabs.
    """
    for where, text, is_name in _texts(config.values, ()):
        pattern = _CONTROL_BUT_LINES if _is_own(config, where) else _CONTROL
        found = pattern.search(text)
        if found is None:
            continue
        what = _NAMES.get(found[0], f"the control character U+{ord(found[0]):04X}")
        name = "a name" if is_name else where[-1]
        hint = "Remove it."
        if _WINDOWS_PATH.match(text):
            hint = (
                "In double quotes a backslash begins an escape. Put a Windows path in single"
                " quotes: 'C:\\temp'."
            )
        yield finding(config, "control-character", where, f"{name} holds {what}", hint)


def _texts(value: object, where: KeyPath) -> Iterator[tuple[KeyPath, str, bool]]:
    """Yield every name and every string, with its key and whether it is a name."""
    if isinstance(value, str):
        yield where, value, False
    elif isinstance(value, dict):
        for name, item in value.items():
            yield (*where, name), name, True
            yield from _texts(item, (*where, name))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, where)


def _is_own(config: Config, where: KeyPath) -> bool:
    """Whether a key belongs to the table that a script of the operator's own gets."""
    if where[:1] != ("modules",) or where[2:3] != ("py",):
        return False
    module = config.values["modules"][where[1]]
    return isinstance(module, dict) and "script" in module
