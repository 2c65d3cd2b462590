"""Rules that walk the schema: missing, unknown and misplaced keys, types, words.

What they call errors stops the server at load.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from dsmops.config import schema
from dsmops.config.lint.inputs import LintInputs
from dsmops.config.lint.lax import is_lax_flag, is_lax_integer, is_lax_number
from dsmops.config.lint.report import Findings, dotted, finding
from dsmops.config.load import Config, KeyPath
from dsmops.config.schema import MODULES, TOP, Anything, OneOf, Section, Text, Variants, Whole

Problem = tuple[str, KeyPath, str, str]
"""Code, key path, message, hint: a finding before it knows its config."""


def schema_problems(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001 every rule has this signature
    """Report every way in which the config departs from the schema."""
    for code, where, message, hint in _section(config.values, TOP, ()):
        yield finding(config, code, where, message, hint)
    if not config.values.get("modules"):
        yield finding(
            config,
            "no-modules",
            ("modules",),
            "no [modules.NAME] table: the server would serve static files only",
        )


def _section(table: Mapping[str, Any], section: Section, where: KeyPath) -> Iterator[Problem]:
    for name, key in section.keys.items():
        if name in table:
            if key.ignored:
                yield (
                    "ignored-key",
                    (*where, name),
                    f"{name} is ignored: nothing in the server reads it",
                    "Leave it out.",
                )
                yield from _dates_handed_on(table, name, section, where)
            elif key.fork:
                yield (
                    "fork-key",
                    (*where, name),
                    f"{name} is ignored by upstream's server; only a fork reads it",
                    "Leave it out.",
                )
            else:
                yield from _value(table[name], key.type, (*where, name), lax=section.lax)
        elif key.required:
            hint = f"Its meaning: {key.meaning}." if key.meaning else ""
            yield (
                "missing-key",
                (*where, name),
                f"{name} is missing, and the server does not start without it",
                hint,
            )
    for name in table:
        if name not in section.keys:
            yield _unknown(name, section, table, (*where, name))
            yield from _dates_handed_on(table, name, section, where)


def _dates_handed_on(
    table: Mapping[str, Any], name: str, section: Section, where: KeyPath
) -> Iterator[Problem]:
    """Find dates under a key that nothing reads.

    In a table for Python the server fails at them all the same.
    """
    if section.lax:
        yield from _dates(table[name], (*where, name))


def _variants(tables: Mapping[str, Any], variants: Variants, where: KeyPath) -> Iterator[Problem]:
    for name, table in tables.items():
        here = (*where, name)
        if not isinstance(table, dict):
            yield _wrong_type(table, "a table", here)
            continue
        kind = table.get("type")
        if kind is None:
            yield (
                "missing-key",
                (*here, "type"),
                "type is missing",
                f"Use one of {', '.join(variants.kinds)}.",
            )
        elif not isinstance(kind, str):
            yield _wrong_type(kind, "a string", (*here, "type"))
        elif kind not in variants.kinds:
            yield _wrong_word(kind, tuple(variants.kinds), (*here, "type"))
        else:
            section = variants.kinds[kind]
            if "script" in table and isinstance(table["script"], str):
                # Another script has its own keys.
                section = Section({**section.keys, "py": schema.Key(Anything())})
            yield from _section(table, section, here)


def _value(value: Any, kind: schema.Type, where: KeyPath, *, lax: bool) -> Iterator[Problem]:
    match kind:
        case Section() | Variants() | schema.TextTable() | Anything():
            if isinstance(value, dict):
                yield from _table(value, kind, where)
            else:
                yield _wrong_type(value, "a table", where)
        case schema.Texts():
            if isinstance(value, list):
                yield from _text_array(value, where)
            else:
                yield _wrong_type(value, "an array of strings", where)
        case schema.CrossAttention():
            yield from _cross_attention(value, where)
        case OneOf():
            yield from _one_of(value, kind, where)
        case Whole():
            yield from _whole(value, kind, where, lax=lax)
        case _:
            yield from _scalar(value, kind, where, lax=lax)


def _table(table: dict[str, Any], kind: schema.Type, where: KeyPath) -> Iterator[Problem]:
    match kind:
        case Section():
            yield from _section(table, kind, where)
        case Variants():
            yield from _variants(table, kind, where)
        case Anything():
            yield from _dates(table, where)
        case _:
            yield from _text_table(table, where)


def _text_array(items: list[Any], where: KeyPath) -> Iterator[Problem]:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            message = (
                f"item {index + 1} of {where[-1]} is {_described(item)}, and the server wants a"
                " string"
            )
            hint = "Put it in quotes." if isinstance(item, int | float) else ""
            yield "wrong-type", (*where, str(index)), message, hint


def _text_table(items: Mapping[str, Any], where: KeyPath) -> Iterator[Problem]:
    for name, item in items.items():
        yield from _scalar(item, Text(), (*where, name), lax=False)


def _scalar(value: Any, kind: schema.Type, where: KeyPath, *, lax: bool) -> Iterator[Problem]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case Text() if not isinstance(value, str):
            yield _wrong_type(value, "a string", where)
        case schema.Flag() if not (isinstance(value, bool) or (lax and is_lax_flag(value))):
            yield _wrong_type(value, "true or false", where)
        case schema.Number() if not (is_number or (lax and is_lax_number(value))):
            yield _wrong_type(value, "a number", where)


def _whole(value: Any, kind: Whole, where: KeyPath, *, lax: bool) -> Iterator[Problem]:
    if lax:
        if not is_lax_integer(value):
            yield _wrong_type(value, "a whole number", where)
    elif type(value) is not int:
        yield _wrong_type(value, "an integer", where)
    elif not 0 <= value <= kind.most:
        yield (
            "out-of-range",
            where,
            f"{where[-1]} is {value}; the server takes 0 to {kind.most}",
            "",
        )


def _one_of(value: Any, kind: OneOf, where: KeyPath) -> Iterator[Problem]:
    if isinstance(value, str):
        if value not in kind.names:
            yield _wrong_word(value, kind.names, where)
    elif kind.tables and isinstance(value, dict):
        forms = " or ".join(f"{{ {name} = NUMBER }}" for name in kind.tables)
        numbers = [
            isinstance(number, int | float) and not isinstance(number, bool)
            for number in value.values()
        ]
        if len(value) != 1 or not set(value) <= set(kind.tables) or not all(numbers):
            yield (
                "wrong-value",
                where,
                f"{where[-1]} is a table that the server does not know",
                f"Write it as {forms}, or as a word.",
            )
    else:
        yield _wrong_type(value, "a string", where)


def _cross_attention(value: Any, where: KeyPath) -> Iterator[Problem]:
    if not isinstance(value, list) or len(value) != 3:
        yield _wrong_type(
            value, "an array of exactly three: gating, norm and KV width (0 for d_model)", where
        )
        return
    yield from _value(value[0], OneOf(schema.CROSS_ATTENTION_GATINGS), where, lax=False)
    yield from _value(value[1], OneOf(schema.NORMS), where, lax=False)
    yield from _value(value[2], Whole(), where, lax=False)


def _dates(value: Any, where: KeyPath) -> Iterator[Problem]:
    """Find the dates and times in a table that goes to Python; the server cannot hand them on."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _dates(item, (*where, name))
    elif isinstance(value, list):
        for item in value:
            yield from _dates(item, where)
    elif isinstance(value, datetime.date | datetime.time):
        message = (
            f"{dotted(where[-1:])} is a date or time, which the server cannot hand on to a script"
        )
        yield "wrong-type", where, message, "Put it in quotes, or leave it out."


def _wrong_type(value: Any, wanted: str, where: KeyPath) -> Problem:
    """Return the problem of a value that is not `wanted`.

    Values are repeated where a number or a bool belongs; others may be secret.
    """
    hint = ""
    if wanted in _WHOLE_NUMBERS and isinstance(value, float) and value.is_integer():
        hint = f"Write {int(value)}."
    elif (
        wanted in _UNQUOTED
        and isinstance(value, str)
        and re.fullmatch(_UNQUOTED[wanted], value, re.ASCII)
    ):
        hint = f"Write {value} without the quotes."
    return (
        "wrong-type",
        where,
        f"{dotted(where[-1:])} is {_described(value)}, and the server wants {wanted}",
        hint,
    )


_WHOLE_NUMBERS = ("an integer", "a whole number")
_UNQUOTED = {
    "an integer": r"\d+",
    "a whole number": r"-?\d+",
    "a number": r"-?\d+(\.\d+)?",
    "true or false": "true|false",
}


def _described(value: Any) -> str:
    if isinstance(value, list):
        return f"an array of {len(value)}"
    kinds = {bool: "a bool", int: "an integer", float: "a float", str: "a string", dict: "a table"}
    return kinds.get(type(value), "a date or time")


def _wrong_word(value: str, names: tuple[str, ...], where: KeyPath) -> Problem:
    near = _nearest(value, names)
    hint = f'Write "{near}".' if near else f"Use one of {', '.join(names)}."
    return (
        "wrong-value",
        where,
        f'{where[-1]} = "{value}" is not known to the server; case counts',
        hint,
    )


def _unknown(name: str, section: Section, table: Mapping[str, Any], where: KeyPath) -> Problem:
    if name in _LEVELS:
        return (
            "misplaced-key",
            where,
            f"{name} is ignored here; the server reads it in {', '.join(_LEVELS[name])}",
            "Move it there.",
        )
    near = _nearest(name, tuple(section.keys))
    hint = f"Is {near} meant?" if near else "Leave it out."
    if near and near not in table and section.keys[near].default is not None:
        hint += f" Without it the server takes {_described_default(section.keys[near].default)}."
    return "unknown-key", where, f"{dotted((name,))} is ignored: the server knows no such key", hint


def _described_default(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _nearest(name: str, names: tuple[str, ...]) -> str | None:
    folded = {other.lower(): other for other in names}
    near = get_close_matches(name.lower(), folded, n=1, cutoff=0.75)
    return folded[near[0]] if near else None


def _levels() -> dict[str, list[str]]:
    """Return for every key the levels at which the server reads it, in words.

    The depformer's repeat those of the model.
    """
    levels: dict[str, list[str]] = {
        name: ["the top level, above the first table"] for name in TOP.keys
    }
    for kind, module in MODULES.items():
        for name in module.keys:
            levels.setdefault(name, []).append(f"{kind} modules")
        for name, key in module.keys.items():
            if isinstance(key.type, Section):
                _enter_levels(key.type, f"modules.NAME.{name}", levels)
    return levels


def _enter_levels(section: Section, path: str, levels: dict[str, list[str]]) -> None:
    for name, key in section.keys.items():
        if not (key.fork or key.ignored or f"[{path}]" in levels.get(name, [])):
            levels.setdefault(name, []).append(f"[{path}]")
        if isinstance(key.type, Section) and name != "depformer":
            _enter_levels(key.type, f"{path}.{name}", levels)


_LEVELS = _levels()
