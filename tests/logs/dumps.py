"""What programs print of an object, an environment, or headers that hold a secret.

A printer takes fields and returns what a language or tool prints of them, written from the
documentation of each and compared with its output where the tool was available. It knows nothing of
the rules. `samples` combines printers with names, values and places of the secret.
"""

from __future__ import annotations

import csv
import io
import json
import pprint
import random
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, make_dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, quote_plus, urlencode
from xml.sax.saxutils import escape, quoteattr

import yaml

Fields = Mapping[str, Any]
Printer = Callable[[Fields], str]
OBJECTS: dict[str, Printer] = {}
"""Printers of nested fields."""
FLAT: dict[str, Printer] = {}
"""Printers of environments, headers, options, rows: text fields only."""
NO_LISTS = {
    "Java quoted", "Scala case class", "C++ / gdb", "Spring XML", "plist", "Erlang proplist", "XML",
    "terraform plan, replaced", "XML, lines", "XML attributes", "Ruby object", "Go spew",
}  # fmt: skip
UNCLEAR = {
    # The value stands a line before its name.
    "ECS, value first",
    # Nothing but a word of prose tells that a value follows.
    "chat",
    # A row of two words without a digit.
    "CSV, pairs",
}
"""Printers of which only values that look like a key are found, or none: the known limits."""
NAMES = (
    "api_key", "password", "HF_TOKEN", "client_secret", "auth_id", "kyutai-api-key", "DB_PASSWORD",
    "accessToken", "AWS_SECRET_ACCESS_KEY", "session_token",
)  # fmt: skip
EVERYDAY = (
    "Zq7vR2mXk9TbL4wPsN8d", "correcthorsebatterystaple", "9f86d081884c7d659a2feaa0c55ad015",
    "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "dXNlcjpwYXNzd29yZDEyMw==", "q+Zr/8vK3mW9xL/5tY+2nQ==",
    "hunter2-Correct9Horse",
)  # fmt: skip
AWKWARD = (
    "p@ss!w0rd#Q9x", "Zq7v,R2mXk9,TbL4", "Zq7vR2;mXk9TbL4", "Zq7vR2:mXk9TbL4", "Zq7v=R2mXk9=TbL4",
    "Zq7vR2&mXk9TbL4", 'Zq7vR2"mXk9TbL4', "Zq7vR2'mXk9TbL4", "Zq7vR2\\mXk9TbL4\\",
    "$Zq7vR2$mXk9TbL4",
    "Zq7vR2(mXk9)TbL4", "{Zq7vR2}mXk9TbL4", "[Zq7vR2]mXk9TbL4", "Zq7väR2mXk9öTbL4",
    "Zq7v%R2mXk9%TbL4",
    "Zq7v<R2mXk9>TbL4", "Zq7v#R2mXk9TbL4",
)  # fmt: skip


def objects(name: str) -> Callable[[Printer], Printer]:
    def keep(printer: Printer) -> Printer:
        OBJECTS[name] = printer
        return printer

    return keep


def flat(name: str) -> Callable[[Printer], Printer]:
    def keep(printer: Printer) -> Printer:
        FLAT[name] = printer
        return printer

    return keep


def camel(name: str, *, first_upper: bool = False) -> str:
    """Return a name as Go, Java and C# write it."""
    name = name.lower() if name.isupper() else name
    words = [word for word in name.replace("-", "_").split("_") if word]
    made = "".join(word[0].upper() + word[1:] for word in words)
    return made if first_upper else made[0].lower() + made[1:]


def snake(name: str) -> str:
    return name.replace("-", "_").lower()


def joined(fields: Fields, form: str, between: str, show: Callable[[Any], str]) -> str:
    return between.join(form.format(name, show(value)) for name, value in fields.items())


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Sample:
    """What a printer made of fields of which one is a secret, and the parts of it that show."""

    text: str
    parts: tuple[str, ...]


def samples(
    name: str, printer: Printer, values: tuple[str, ...], count: int, rng: random.Random
) -> Iterator[Sample]:
    """Yield what a printer makes of some names, values and places of a secret."""
    for _ in range(count):
        field, value = rng.choice(NAMES), rng.choice(values)
        places: list[Fields] = [
            {field: value, "host": "db", "port": "80"},
            {"host": "db", field: value, "port": "80"},
            {"host": "db", "port": "80", field: value},
        ]
        if name in OBJECTS:
            places.append({"host": "db", "auth": {"kind": "x", field: value, "z": "1"}, "port": 80})
            if name not in NO_LISTS:
                places.append({"host": "db", field: ["aa", value, "bb"], "port": 80})
        text = printer(rng.choice(places))
        parts = tuple(part for part in re.findall(r"\w{4,}", value) if part in text)
        if parts:
            yield Sample(text, parts)


# --- objects --------------------------------------------------------------------------------------

OBJECTS["Python dict"] = lambda fields: repr(dict(fields))
OBJECTS["Python pprint"] = lambda fields: pprint.pformat(dict(fields), width=30)
OBJECTS["JSON"] = json.dumps
OBJECTS["JSON, compact"] = lambda fields: json.dumps(fields, separators=(",", ":"))
OBJECTS["JSON, indented"] = lambda fields: json.dumps(fields, indent=2, ensure_ascii=False)
OBJECTS["JSON in JSON"] = lambda fields: json.dumps({"msg": json.dumps(fields), "level": "info"})
OBJECTS["JSON in a string in JSON"] = lambda fields: json.dumps(
    {"log": json.dumps({"msg": json.dumps(fields)}) + "\n", "stream": "stderr"}
)
OBJECTS["JSON in a URL"] = lambda fields: "GET /x?filter=" + quote(json.dumps(fields)) + " 200"
OBJECTS["YAML"] = lambda fields: yaml.safe_dump(dict(fields), sort_keys=False)
OBJECTS["YAML, flow"] = lambda fields: yaml.safe_dump(dict(fields), default_flow_style=True)
OBJECTS["YAML, quoted"] = lambda fields: yaml.safe_dump(
    dict(fields), sort_keys=False, default_style="'"
)
OBJECTS["JSON Lines of a collector"] = lambda fields: json.dumps(
    {"log": json.dumps(fields, indent=1), "time": "2025-11-15T08:39:03Z"}
)


def _python_object(kind: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    made = {snake(name): _python_object(name, item) for name, item in value.items()}
    return make_dataclass(camel(kind, first_upper=True), list(made))(**made)


@objects("Python dataclass")
def _dataclass(fields: Fields) -> str:
    return repr(_python_object("config", fields))


@objects("Python SimpleNamespace")
def _namespace(fields: Fields) -> str:
    return repr(SimpleNamespace(**{snake(name): value for name, value in fields.items()}))


@objects("pydantic")
def _pydantic(fields: Fields) -> str:
    return " ".join(f"{snake(name)}={value!r}" for name, value in fields.items())


@objects("Python locals in a traceback")
def _rich_locals(fields: Fields) -> str:
    lines = [f"│ {snake(name):>20} = {value!r}  │" for name, value in fields.items()]
    return "\n".join(("╭──── locals ────╮", *lines, "╰────╯"))


@objects("pytest locals")
def _pytest_locals(fields: Fields) -> str:
    return "\n".join(f"{snake(name):<10} = {value!r}" for name, value in fields.items())


@objects("pytest assertion")
def _pytest_assertion(fields: Fields) -> str:
    return (
        f"E       AssertionError: assert {dict(fields)!r} == {{}}\nE         Left contains:\n"
        + ("\n".join(f"E         {{{name!r}: {value!r}}}" for name, value in fields.items()))
    )


def _rust_value(value: Any) -> str:
    if isinstance(value, str):
        # Debug escapes quotes and backslashes, and leaves letters of any language.
        return json_text(value)
    if isinstance(value, Mapping):
        return _rust(value, "Nested")
    if isinstance(value, list):
        return "[" + ", ".join(map(_rust_value, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rust(fields: Fields, kind: str = "Config") -> str:
    inner = ", ".join(f"{snake(name)}: {_rust_value(value)}" for name, value in fields.items())
    return f"{kind} {{ {inner} }}"


OBJECTS["Rust Debug"] = _rust
OBJECTS["Rust dbg!"] = lambda fields: f"[src/main.rs:12:5] &config = {_rust_pretty(fields)}"


def _rust_pretty(fields: Fields, kind: str = "Config", depth: int = 1, some: bool = False) -> str:
    pad = "    " * depth
    out = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            shown = _rust_pretty(value, "Nested", depth + 1, some)
        elif some and isinstance(value, str):
            shown = f"Some(\n{pad}    {json_text(value)},\n{pad})"
        elif isinstance(value, list):
            items = "".join(f"{pad}    {_rust_value(item)},\n" for item in value)
            shown = f"[\n{items}{pad}]"
        else:
            shown = _rust_value(value)
        out.append(f"{pad}{snake(name)}: {shown},\n")
    return f"{kind} {{\n{''.join(out)}{'    ' * (depth - 1)}}}"


OBJECTS["Rust Debug, pretty"] = _rust_pretty
OBJECTS["Rust Debug, pretty, Some"] = lambda fields: _rust_pretty(fields, some=True)
OBJECTS["Rust map"] = lambda fields: "{" + joined(fields, '"{}": {}', ", ", _rust_value) + "}"


@objects("Rust tuples")
def _rust_tuples(fields: Fields) -> str:
    pairs = (f"({json_text(name)}, {_rust_value(value)})" for name, value in fields.items())
    return f"[{', '.join(pairs)}]"


def _serde_value(value: Any) -> str:
    if isinstance(value, str):
        return f"String({json_text(value)})"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json_text(k)}: {_serde_value(v)}" for k, v in value.items())
        return f"Object {{{inner}}}"
    if isinstance(value, list):
        return f"Array [{', '.join(map(_serde_value, value))}]"
    return f"Number({value})"


OBJECTS["serde_json Debug"] = _serde_value


def _go(value: Any, form: str) -> str:
    if isinstance(value, Mapping):
        if form == "%#v":
            inner = ", ".join(
                f"{camel(name, first_upper=True)}:{_go(item, form)}" for name, item in value.items()
            )
            return f"main.Config{{{inner}}}"
        if form == "map":
            inner = " ".join(f"{name}:{_go(item, form)}" for name, item in value.items())
            return f"map[{inner}]"
        inner = " ".join(
            f"{camel(name, first_upper=True)}:{_go(item, form)}" for name, item in value.items()
        )
        return f"{{{inner}}}"
    if isinstance(value, list):
        if form == "%#v":
            return f"[]string{{{', '.join(_go(item, form) for item in value)}}}"
        return f"[{' '.join(_go(item, form) for item in value)}]"
    if form == "%#v" and isinstance(value, str):
        return json_text(value)
    return str(value)


OBJECTS["Go %+v"] = lambda fields: "config: " + _go(fields, "%+v")
OBJECTS["Go %#v"] = lambda fields: "config: " + _go(fields, "%#v")
OBJECTS["Go map"] = lambda fields: "config: " + _go(fields, "map")


@objects("Go spew")
def _spew(fields: Fields) -> str:
    lines = []
    for name, value in fields.items():
        if isinstance(value, str):
            size = len(value.encode())
            lines.append(
                f" {camel(name, first_upper=True)}: (string) (len={size}) {json_text(value)},"
            )
        elif isinstance(value, Mapping):
            lines.append(f" {camel(name, first_upper=True)}: {_spew(value)},")
        else:
            lines.append(f" {camel(name, first_upper=True)}: (int) {value},")
    return "(main.Config) {\n" + "\n".join(lines) + "\n}"


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + joined(value, "{} = {}", ", ", _toml_value) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json_text(value)


@objects("TOML")
def _toml(fields: Fields) -> str:
    plain = {name: value for name, value in fields.items() if not isinstance(value, Mapping)}
    text = joined(plain, "{} = {}", "\n", _toml_value)
    for name, value in fields.items():
        if isinstance(value, Mapping):
            text += f"\n\n[{name}]\n" + _toml(value)
    return text


OBJECTS["TOML, inline"] = lambda fields: "config = " + _toml_value(fields)


def _java(value: Any, form: str) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{camel(name)}={_java(item, form)}" for name, item in value.items())
        return form.format(inner)
    if isinstance(value, list):
        return f"[{', '.join(_java(item, form) for item in value)}]"
    return str(value)


OBJECTS["Java record"] = lambda fields: _java(fields, "Config[{}]")
OBJECTS["Java Lombok"] = lambda fields: _java(fields, "Config({})")
OBJECTS["Java map"] = lambda fields: _java(fields, "{{{}}}")
OBJECTS["Java quoted"] = lambda fields: (
    "Config{" + ", ".join(f"{camel(n)}='{v}'" for n, v in fields.items()) + "}"
)
OBJECTS["C# record"] = lambda fields: (
    "Config { " + ", ".join(f"{camel(n, first_upper=True)} = {v}" for n, v in fields.items()) + " }"
)
OBJECTS["Scala case class"] = lambda fields: (
    "Map(" + ", ".join(f"{n} -> {v}" for n, v in fields.items()) + ")"
)


def _js(value: Any, depth: int = 1, *, multi: bool = False) -> str:
    if isinstance(value, str):
        # The quote that does not stand in the text, else backticks.
        for sign in ("'", '"', "`"):
            if sign not in value:
                return sign + value.replace("\\", "\\\\") + sign
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        pad = "\n" + "  " * depth if multi else " "
        pairs = (
            f"{pad}{name if name.isidentifier() else repr(name)}: "
            f"{_js(item, depth + 1, multi=multi)}"
            for name, item in value.items()
        )
        end = "\n" + "  " * (depth - 1) if multi else " "
        return "{" + ",".join(pairs) + end + "}"
    if isinstance(value, list):
        return "[ " + ", ".join(_js(item, depth, multi=multi) for item in value) + " ]"
    return str(value)


OBJECTS["Node util.inspect"] = _js
OBJECTS["Node util.inspect, lines"] = lambda fields: _js(fields, multi=True)
OBJECTS["Node Map"] = lambda fields: (
    f"Map({len(fields)}) {{ "
    + ", ".join(f"{_js(name)} => {_js(value)}" for name, value in fields.items())
    + " }"
)


@objects("Node rawHeaders")
def _raw_headers(fields: Fields) -> str:
    items = (f"    {_js(name)}, {_js(value)}" for name, value in fields.items())
    return "  rawHeaders: [\n" + ",\n".join(items) + "\n  ]"


def _print_r(value: Any, depth: int = 0) -> str:
    if not isinstance(value, Mapping | list):
        return str(value)
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    pad = "    " * (2 * depth)
    inner = "".join(f"{pad}    [{name}] => {_print_r(item, depth + 1)}\n" for name, item in items)
    return f"Array\n{pad}(\n{inner}{pad})\n"


OBJECTS["PHP print_r"] = _print_r


def _var_dump(value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        return f'string({len(value.encode())}) "{value}"'
    if not isinstance(value, Mapping | list):
        return f"int({value})"
    items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
    pad = "  " * depth
    inner = "".join(
        f"{pad}  [{json_text(name)}]=>\n{pad}  {_var_dump(item, depth + 1)}\n"
        for name, item in items
    )
    return f"array({len(items)}) {{\n{inner}{pad}}}"


OBJECTS["PHP var_dump"] = _var_dump


def _var_export(value: Any, depth: int = 0) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if not isinstance(value, Mapping | list):
        return str(value)
    items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
    pad = "  " * depth
    inner = "".join(f"{pad}  {_var_export(n)} => {_var_export(v, depth + 1)},\n" for n, v in items)
    return f"array (\n{inner}{pad})"


OBJECTS["PHP var_export"] = _var_export


@objects("PHP serialize")
def _serialize(fields: Fields) -> str:
    def show(value: Any) -> str:
        if isinstance(value, str):
            return f's:{len(value.encode())}:"{value}";'
        if isinstance(value, Mapping):
            return f"a:{len(value)}:{{{''.join(show(k) + show(v) for k, v in value.items())}}}"
        if isinstance(value, list):
            return f"a:{len(value)}:{{{''.join(f'i:{i};' + show(v) for i, v in enumerate(value))}}}"
        return f"i:{value};"

    return show(fields)


def _ruby(value: Any, form: str) -> str:
    if isinstance(value, Mapping):
        shown = {
            "old": lambda name: f":{name}=>" if name.isidentifier() else f'"{name}"=>',
            "strings": lambda name: f'"{name}"=>',
            "new": lambda name: f"{name}: " if name.isidentifier() else f'"{name}": ',
            "spaced": lambda name: f'"{name}" => ',
        }[form]
        return "{" + ", ".join(shown(n) + _ruby(v, form) for n, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_ruby(item, form) for item in value) + "]"
    return json_text(value)


OBJECTS["Ruby hash of symbols"] = lambda fields: _ruby(fields, "old")
OBJECTS["Ruby hash of strings"] = lambda fields: _ruby(fields, "strings")
OBJECTS["Ruby 3.4 hash"] = lambda fields: _ruby(fields, "new")
OBJECTS["Ruby 3.4 hash of strings"] = lambda fields: _ruby(fields, "spaced")
OBJECTS["Ruby object"] = lambda fields: (
    "#<Config:0x00007f1c2a "
    + ", ".join(f"@{snake(n)}={_ruby(v, 'new')}" for n, v in fields.items())
    + ">"
)
OBJECTS["Ruby struct"] = lambda fields: (
    "#<struct Config " + ", ".join(f"{snake(n)}={_ruby(v, 'new')}" for n, v in fields.items()) + ">"
)
OBJECTS["Perl Data::Dumper"] = lambda fields: (
    "$VAR1 = {\n" + ",\n".join(f"          '{n}' => {_var_export(v)}" for n, v in fields.items())
    + "\n        };"
)  # fmt: skip
OBJECTS["Elixir map"] = lambda fields: (
    "%{" + ", ".join(f"{snake(n)}: {_rust_value(v)}" for n, v in fields.items()) + "}"
)
OBJECTS["Elixir map of strings"] = lambda fields: (
    "%{" + ", ".join(f'"{n}" => {_rust_value(v)}' for n, v in fields.items()) + "}"
)
OBJECTS["Erlang proplist"] = lambda fields: (
    "[" + ",".join(f"{{{snake(n)},{_rust_value(v)}}}" for n, v in fields.items()) + "]"
)
OBJECTS["Clojure"] = lambda fields: (
    "{" + ", ".join(f":{n.lower()} {_rust_value(v)}" for n, v in fields.items()) + "}"
)
OBJECTS["Lua"] = lambda fields: (
    "{ " + ", ".join(f'["{n}"] = {_rust_value(v)}' for n, v in fields.items()) + " }"
)
OBJECTS["Swift dictionary"] = lambda fields: (
    "[" + ", ".join(f'"{n}": {_rust_value(v)}' for n, v in fields.items()) + "]"
)
OBJECTS["Swift optional"] = lambda fields: (
    "Config("
    + ", ".join(f"{camel(n)}: Optional({_rust_value(v)})" for n, v in fields.items())
    + ")"
)
OBJECTS["Kotlin data class"] = lambda fields: _java(fields, "Config({})")
OBJECTS["Haskell record"] = lambda fields: (
    "Config {" + ", ".join(f"{camel(n)} = {_rust_value(v)}" for n, v in fields.items()) + "}"
)
OBJECTS["C++ / gdb"] = lambda fields: (
    "$1 = {" + ", ".join(f"{snake(n)} = 0x7fff5c {_rust_value(v)}" for n, v in fields.items()) + "}"
)
OBJECTS["protobuf text"] = lambda fields: "\n".join(
    f"{snake(n)}: {_rust_value(v)}" for n, v in fields.items() if not isinstance(v, Mapping)
)
OBJECTS["protobuf text, one line"] = lambda fields: " ".join(
    f"{snake(n)}:{_rust_value(v)}" if not isinstance(v, Mapping) else f"{n}:{{{_pb(v)}}}"
    for n, v in fields.items()
)


def _pb(fields: Fields) -> str:
    return " ".join(f"{snake(name)}:{_rust_value(value)}" for name, value in fields.items())


@objects("HCL")
def _hcl(fields: Fields) -> str:
    lines = (
        f"  {n} {{\n{joined(v, '    {} = {}', chr(10), _toml_value)}\n  }}"
        if isinstance(v, Mapping)
        else f"  {n:<12} = {_toml_value(v)}"
        for n, v in fields.items()
    )
    return 'resource "x" "y" {\n' + "\n".join(lines) + "\n}"


@objects("terraform plan")
def _plan(fields: Fields) -> str:
    lines = (
        f"      ~ {n:<12} = {_toml_value(v)} -> (known after apply)" for n, v in fields.items()
    )
    return '  # x.y will be updated\n  ~ resource "x" "y" {\n' + "\n".join(lines) + "\n    }"


@objects("terraform plan, replaced")
def _plan_old(fields: Fields) -> str:
    lines = (f'      + "{n}" = "old-value" -> {_toml_value(v)}' for n, v in fields.items())
    return "\n".join(lines)


@objects("XML")
def _xml(fields: Fields) -> str:
    def show(value: Any) -> str:
        if isinstance(value, Mapping):
            return "".join(f"<{n}>{show(v)}</{n}>" for n, v in value.items())
        return escape(str(value))

    return f"<config>{show(fields)}</config>"


@objects("XML, lines")
def _xml_lines(fields: Fields) -> str:
    def show(value: Fields, pad: str) -> str:
        return "".join(
            f"{pad}<{n}>\n{show(v, pad + '  ')}{pad}</{n}>\n"
            if isinstance(v, Mapping)
            else f"{pad}<{n}>{escape(str(v))}</{n}>\n"
            for n, v in value.items()
        )

    return f"<config>\n{show(fields, '  ')}</config>"


@objects("XML attributes")
def _xml_attributes(fields: Fields) -> str:
    return "<config " + " ".join(f"{n}={quoteattr(str(v))}" for n, v in fields.items()) + "/>"


@objects("Spring XML")
def _spring(fields: Fields) -> str:
    return "\n".join(f'<property name="{n}" value={quoteattr(str(v))}/>' for n, v in fields.items())


@objects("plist")
def _plist(fields: Fields) -> str:
    return "<dict>\n" + "\n".join(
        f"\t<key>{n}</key>\n\t<string>{escape(str(v))}</string>" for n, v in fields.items()
    )


# --- environments, options, rows ------------------------------------------------------------------

FLAT["env"] = lambda fields: joined(fields, "{}={}", "\n", str)
FLAT["/proc/environ"] = lambda fields: joined(fields, "{}={}", "\0", str)
FLAT["export -p"] = lambda fields: joined(
    fields,
    "declare -x {}={}",
    "\n",
    lambda v: '"' + "".join("\\" + c if c in '"\\$`' else c for c in v) + '"',
)
FLAT["export of dash"] = lambda fields: joined(
    fields, "export {}={}", "\n", lambda v: "'" + v.replace("'", "'\"'\"'") + "'"
)
FLAT["set -x"] = lambda fields: joined(fields, "+ export {}={}", "\n", shlex.quote)
FLAT["set -x, all"] = lambda fields: "+ env " + joined(fields, "{}={}", " ", shlex.quote) + " serve"
FLAT["bash set"] = lambda fields: joined(fields, "{}={}", "\n", shlex.quote)
FLAT["dotenv"] = lambda fields: joined(fields, "{}={}", "\n", json_text)
FLAT["Windows set"] = lambda fields: joined(fields, "{}={}", "\r\n", str)
FLAT["PowerShell env"] = lambda fields: (
    "Name                           Value\n----                           -----\n"
    + "\n".join(f"{n:<30} {v}" for n, v in fields.items())
)
FLAT["PowerShell list"] = lambda fields: "\n".join(f"{n:<18} : {v}" for n, v in fields.items())
FLAT["PowerShell assignments"] = lambda fields: joined(
    fields, "$env:{} = {}", "\n", lambda v: "'" + v.replace("'", "''") + "'"
)
FLAT["systemd Environment"] = lambda fields: joined(
    fields, 'Environment="{}={}"', "\n", lambda v: v.replace("\\", "\\\\").replace('"', '\\"')
)
FLAT["systemctl show"] = lambda fields: (
    "Environment="
    + " ".join(
        f"{n}={v}" if shlex.quote(v) == v else json_text(f"{n}={v}") for n, v in fields.items()
    )
)
FLAT["docker inspect"] = lambda fields: json.dumps(
    [{"Config": {"Env": [f"{n}={v}" for n, v in fields.items()], "Cmd": None}}], indent=4
)
FLAT["docker run"] = lambda fields: (
    "docker run --rm " + " ".join("-e " + shlex.quote(f"{n}={v}") for n, v in fields.items()) + " x"
)
FLAT["docker run --env"] = lambda fields: (
    "docker run " + " ".join("--env=" + shlex.quote(f"{n}={v}") for n, v in fields.items()) + " x"
)
FLAT["docker history"] = lambda fields: "\n".join(
    f"3f2a9bc4d5e6   2 weeks ago   ENV {n}={v}    0B        buildkit.dockerfile.v0"
    for n, v in fields.items()
)
FLAT["Dockerfile"] = lambda fields: joined(fields, "ENV {} {}", "\n", str)
FLAT["Dockerfile, ="] = lambda fields: "ENV " + joined(fields, "{}={}", " \\\n    ", json_text)
FLAT["compose"] = lambda fields: (
    "    environment:\n" + "\n".join(f"      - {n}={v}" for n, v in fields.items())
)
FLAT["compose map"] = lambda fields: "    environment:\n" + yaml.safe_dump(dict(fields))
FLAT["kubectl describe"] = lambda fields: (
    "    Environment:\n" + "\n".join(f"      {n + ':':<22}{v}" for n, v in fields.items())
)
FLAT["kubectl get -o yaml"] = lambda fields: yaml.safe_dump(
    {"env": [{"name": n, "value": v} for n, v in fields.items()]}
)
FLAT["kubectl get -o json"] = lambda fields: json.dumps(
    {"env": [{"name": n, "value": v} for n, v in fields.items()]}, indent=2
)
FLAT["kubectl get -o json, compact"] = lambda fields: json.dumps(
    {"env": [{"name": n, "value": v} for n, v in fields.items()]}
)
FLAT["ECS, value first"] = lambda fields: json.dumps(
    {"environment": [{"value": v, "name": n} for n, v in fields.items()]}, indent=2
)
FLAT["ECS, value first, compact"] = lambda fields: json.dumps(
    {"environment": [{"value": v, "name": n} for n, v in fields.items()]}
)
FLAT["AWS tags"] = lambda fields: json.dumps([{"Key": n, "Value": v} for n, v in fields.items()])
FLAT["OpenTelemetry"] = lambda fields: json.dumps(
    [{"key": n, "value": {"stringValue": v}} for n, v in fields.items()]
)
FLAT["OpenTelemetry console"] = lambda fields: (
    "Attributes:\n" + "\n".join(f"     -> {n}: Str({v})" for n, v in fields.items())
)
FLAT["Go env list"] = lambda fields: "[" + " ".join(f"{n}={v}" for n, v in fields.items()) + "]"
FLAT["Python env list"] = lambda fields: repr([f"{n}={v}" for n, v in fields.items()])
FLAT["Rust Command"] = lambda fields: " ".join(
    [f"{n}={json_text(v)}" for n, v in fields.items()] + ['"serve"', '"--port"']
)
FLAT["Rust vars"] = lambda fields: (
    "[" + ", ".join(f"({json_text(n)}, {json_text(v)})" for n, v in fields.items()) + "]"
)
FLAT["gdb environment"] = lambda fields: joined(fields, "environment: {}={}", "\n", str)
FLAT["core dump strings"] = lambda fields: "\n".join(f"{n}={v}" for n, v in fields.items())
FLAT["strace execve"] = lambda fields: (
    'execve("/bin/x", ["x"], [' + ", ".join(json_text(f"{n}={v}") for n, v in fields.items()) + "])"
)
FLAT["ps e"] = lambda fields: (
    "  77 ?  Ss  0:00 serve " + " ".join(f"{n}={v}" for n, v in fields.items())
)
FLAT["make"] = lambda fields: joined(fields, "{} := {}", "\n", str)
FLAT["CMake cache"] = lambda fields: joined(fields, "{}:STRING={}", "\n", str)
FLAT["GitHub Actions"] = lambda fields: "env:\n" + joined(fields, "  {}: {}", "\n", str)
FLAT["INI"] = lambda fields: "[main]\n" + joined(fields, "{} = {}", "\n", str)
FLAT["INI, quoted"] = lambda fields: "[main]\n" + joined(fields, '{}="{}"', "\n", str)
FLAT["git config --list"] = lambda fields: joined(fields, "section.{}={}", "\n", str)
FLAT["Java properties"] = lambda fields: joined(fields, "app.{}={}", "\n", str)
FLAT["Java -D"] = lambda fields: (
    "java " + " ".join("-Dapp." + shlex.quote(f"{n}={v}") for n, v in fields.items()) + " -jar x"
)
FLAT["logfmt"] = lambda fields: " ".join(
    f"{n}={v}" if shlex.quote(v) == v else f"{n}={json_text(v)}" for n, v in fields.items()
)
FLAT["zap console"] = lambda fields: "INFO\tserver/main.go:12\tstart\t" + json.dumps(dict(fields))
FLAT["zerolog console"] = lambda fields: (
    "8:39AM INF start " + " ".join(f"\x1b[36m{n}=\x1b[0m{v}" for n, v in fields.items())
)
FLAT["structlog"] = lambda fields: (
    "2025-11-15 [info     ] start  "
    + " ".join(f"\x1b[36m{n}\x1b[0m=\x1b[35m{v}\x1b[0m" for n, v in fields.items())
)
FLAT["tracing fields"] = lambda fields: "INFO app: start " + joined(fields, "{}={}", " ", json_text)
FLAT["tracing fields, coloured"] = lambda fields: (
    "INFO app: start "
    + " ".join(f"\x1b[3m{n}\x1b[0m\x1b[2m=\x1b[0m{json_text(v)}" for n, v in fields.items())
)
FLAT["argparse"] = lambda fields: "Namespace(" + joined(fields, "{}={}", ", ", repr) + ")"
FLAT["options"] = lambda fields: (
    "serve "
    + " ".join(f"--{n.lower().replace('_', '-')} {shlex.quote(v)}" for n, v in fields.items())
)
FLAT["options, ="] = lambda fields: (
    "serve "
    + " ".join(f"--{n.lower().replace('_', '-')}={shlex.quote(v)}" for n, v in fields.items())
)
FLAT["options, underscores"] = lambda fields: (
    "serve " + " ".join(f"--{n.lower()}={shlex.quote(v)}" for n, v in fields.items())
)
FLAT["Go options"] = lambda fields: (
    "serve "
    + " ".join(f"-{n.lower().replace('_', '-')}={shlex.quote(v)}" for n, v in fields.items())
)
FLAT["Go options, apart"] = lambda fields: (
    "serve "
    + " ".join(f"-{n.lower().replace('_', '-')} {shlex.quote(v)}" for n, v in fields.items())
)
FLAT["Windows options"] = lambda fields: (
    "serve.exe " + " ".join(f"/{n}:{v}" for n, v in fields.items())
)
FLAT["PowerShell options"] = lambda fields: (
    "Start-Server " + " ".join(f"-{camel(n, first_upper=True)} '{v}'" for n, v in fields.items())
)
FLAT["options, each line"] = lambda fields: (
    "serve \\\n"
    + " \\\n".join(f"  --{n.lower().replace('_', '-')} {shlex.quote(v)}" for n, v in fields.items())
)
FLAT["argv list"] = lambda fields: repr(
    [part for n, v in fields.items() for part in (f"--{n.lower().replace('_', '-')}", v)]
)
FLAT["argv JSON, lines"] = lambda fields: json.dumps(
    {"args": [part for n, v in fields.items() for part in (f"--{n.lower().replace('_', '-')}", v)]},
    indent=2,
)
FLAT["argv YAML"] = lambda fields: yaml.safe_dump(
    {"args": [part for n, v in fields.items() for part in (f"--{n.lower().replace('_', '-')}", v)]}
)
FLAT["systemd-cgls"] = lambda fields: (
    "└─77 serve " + " ".join(f"--{n.lower().replace('_', '-')}={v}" for n, v in fields.items())
)
FLAT["helm --set"] = lambda fields: (
    "helm upgrade x y " + " ".join(f"--set {n.lower()}={shlex.quote(v)}" for n, v in fields.items())
)
FLAT["helm --set, one"] = lambda fields: (
    "helm upgrade x y --set " + ",".join(f"config.{n.lower()}={v}" for n, v in fields.items())
)
FLAT["query"] = lambda fields: "GET /api?" + urlencode(dict(fields)) + " HTTP/1.1"
FLAT["query, %20"] = lambda fields: "GET /api?" + urlencode(dict(fields), quote_via=quote) + " 200"
FLAT["query in a query"] = lambda fields: (
    "GET /login?next=" + quote_plus("/api?" + urlencode(dict(fields))) + " HTTP/1.1"
)
FLAT["fragment"] = lambda fields: "https://example.org/callback#" + urlencode(dict(fields))
FLAT["form body"] = lambda fields: urlencode(dict(fields))
FLAT["multipart"] = lambda fields: (
    "\r\n".join(
        f'--b0undary\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}'
        for n, v in fields.items()
    )
    + "\r\n--b0undary--"
)
FLAT["multipart, one line"] = lambda fields: (
    'body="'
    + "\\r\\n".join(
        f'--b0undary\\r\\nContent-Disposition: form-data; name=\\"{n}\\"\\r\\n\\r\\n{v}'
        for n, v in fields.items()
    )
    + '\\r\\n--b0undary--"'
)
FLAT["curl -F"] = lambda fields: (
    "curl " + " ".join("-F " + shlex.quote(f"{n}={v}") for n, v in fields.items()) + " https://x"
)
FLAT["headers"] = lambda fields: joined(fields, "{}: {}", "\r\n", str)
FLAT["curl -v"] = lambda fields: "> GET /x HTTP/2\n" + joined(fields, "> {}: {}", "\n", str)
FLAT["curl -v, HTTP/2"] = lambda fields: joined(fields, "* [HTTP/2] [1] [{}: {}]", "\n", str)
FLAT["curl --trace-ascii"] = lambda fields: joined(fields, "0030: {}: {}", "\n", str)
FLAT["curl -H"] = lambda fields: (
    "curl " + " ".join("-H " + shlex.quote(f"{n}: {v}") for n, v in fields.items()) + " https://x"
)
FLAT["Windows curl -H"] = lambda fields: (
    "curl " + " ".join(f'-H "{n}: {v}"' for n, v in fields.items()) + " https://x"
)
FLAT["Python http.client debug"] = lambda fields: (
    "send: "
    + repr(("GET /x HTTP/1.1\r\n" + joined(fields, "{}: {}", "\r\n", str) + "\r\n\r\n").encode())
)
FLAT["http.client header"] = lambda fields: joined(fields, "header: {}: {}", "\n", str)
FLAT["ASGI headers"] = lambda fields: repr(
    [(n.lower().encode(), v.encode()) for n, v in fields.items()]
)
FLAT["httpx Headers"] = lambda fields: f"Headers({dict(fields)!r})"
FLAT["aiohttp CIMultiDict"] = lambda fields: (
    "<CIMultiDictProxy(" + ", ".join(f"{n!r}: {v!r}" for n, v in fields.items()) + ")>"
)
FLAT["Go http.Header"] = lambda fields: (
    "map[" + " ".join(f"{n}:[{v}]" for n, v in fields.items()) + "]"
)
FLAT["Java HttpHeaders"] = lambda fields: (
    "[" + ", ".join(f'{n}:"{v}"' for n, v in fields.items()) + "]"
)
FLAT["Java header map"] = lambda fields: (
    "{" + ", ".join(f"{n}=[{v}]" for n, v in fields.items()) + "}"
)
FLAT["Netty headers"] = lambda fields: (
    "DefaultHttpHeaders[" + ", ".join(f"{n}: {v}" for n, v in fields.items()) + "]"
)
FLAT["Rack env"] = lambda fields: (
    "{" + ", ".join(f'"HTTP_{n.upper().replace("-", "_")}"=>"{v}"' for n, v in fields.items()) + "}"
)
FLAT["WSGI environ"] = lambda fields: repr(
    {f"HTTP_{n.upper().replace('-', '_')}": v for n, v in fields.items()}
)
FLAT["HAR"] = lambda fields: json.dumps([{"name": n, "value": v} for n, v in fields.items()])
FLAT["nginx debug"] = lambda fields: joined(
    fields, '2025/11/15 08:39:03 [debug] 7#7: *1 http header: "{}: {}"', "\n", str
)
FLAT["envoy debug"] = lambda fields: joined(fields, "'{}', '{}'", "\n", str)
FLAT["haproxy capture"] = lambda fields: (
    "{" + "|".join(f"{n}: {v}" for n, v in fields.items()) + "}"
)
FLAT["tcpdump -A"] = lambda fields: "E..4..@.@......" + joined(fields, "{}: {}", "\n", str)
FLAT["h2 debug"] = lambda fields: (
    "Headers { stream_id: 1, fields: {"
    + ", ".join(f'"{n}": "{v}"' for n, v in fields.items())
    + "}"
)
FLAT["gRPC metadata"] = lambda fields: (
    "Metadata(" + ",".join(f"{n.lower()}={v}" for n, v in fields.items()) + ")"
)
FLAT["cookies"] = lambda fields: "Cookie: " + joined(fields, "{}={}", "; ", quote)
FLAT["Set-Cookie"] = lambda fields: joined(
    fields, "< set-cookie: {}={}; Path=/; HttpOnly", "\n", quote
)
FLAT["Netscape cookies"] = lambda fields: "\n".join(
    f"example.org\tFALSE\t/\tTRUE\t1763195943\t{n}\t{quote(v)}" for n, v in fields.items()
)
FLAT["SQL update"] = lambda fields: (
    "UPDATE users SET "
    + ", ".join(f"{n.lower()} = '{v.replace(chr(39), chr(39) * 2)}'" for n, v in fields.items())
    + " WHERE id = 1"
)
FLAT["SQL where"] = lambda fields: (
    "SELECT * FROM users WHERE "
    + " AND ".join(
        f'"users"."{n.lower()}" = \'{v.replace(chr(39), chr(39) * 2)}\'' for n, v in fields.items()
    )
)
FLAT["SQL insert"] = lambda fields: (
    f"INSERT INTO users ({', '.join(n.lower() for n in fields)}) VALUES ("
    + ", ".join("'" + v.replace("'", "''") + "'" for v in fields.values())
    + ")"
)
FLAT["SQLAlchemy parameters"] = lambda fields: f"[parameters: {dict(fields)!r}]"
FLAT["ActiveRecord binds"] = lambda fields: (
    "[" + ", ".join(f'["{n.lower()}", "{v}"]' for n, v in fields.items()) + "]"
)
FLAT["psql \\x"] = lambda fields: (
    "-[ RECORD 1 ]---\n" + "\n".join(f"{n.lower():<14} | {v}" for n, v in fields.items())
)
FLAT["mysql \\G"] = lambda fields: (
    "*** 1. row ***\n" + "\n".join(f"{n.lower():>14}: {v}" for n, v in fields.items())
)
FLAT["MongoDB"] = lambda fields: (
    "{ _id: ObjectId('65'), " + ", ".join(f"{n.lower()}: '{v}'" for n, v in fields.items()) + " }"
)
FLAT["Redis MONITOR"] = lambda fields: (
    '1763195943.5 [0 127.0.0.1:6] "HSET" "user:1" '
    + " ".join(f"{json_text(n)} {json_text(v)}" for n, v in fields.items())
)
FLAT["redis-cli HGETALL"] = lambda fields: "\n".join(
    f"{i}) {json_text(item)}"
    for i, item in enumerate((part for pair in fields.items() for part in pair), 1)
)
FLAT["etcdctl get"] = lambda fields: "\n".join(f"/app/{n}\n{v}" for n, v in fields.items())
FLAT["consul kv"] = lambda fields: joined(fields, "app/{}:{}", "\n", str)
FLAT["vault kv get"] = lambda fields: "\n".join(f"{n:<20} {v}" for n, v in fields.items())
FLAT["az CLI table"] = lambda fields: "\n".join(f"{n}  {v}" for n, v in fields.items())
FLAT["Markdown table"] = lambda fields: (
    "| Name | Value |\n|---|---|\n" + joined(fields, "| {} | {} |", "\n", str)
)
FLAT["ASCII table"] = lambda fields: "\n".join(f"| {n:<20} | {v:<40} |" for n, v in fields.items())
FLAT["box table"] = lambda fields: "\n".join(f"│ {n:<20} │ {v:<40} │" for n, v in fields.items())
FLAT["rich table"] = lambda fields: "\n".join(f"┃ {n:<20} ┃ {v:<40} ┃" for n, v in fields.items())
FLAT["RST table"] = lambda fields: "===  ===\n" + joined(fields, "{}  {}", "\n", str)
FLAT["HTML table"] = lambda fields: joined(fields, "<tr><td>{}</td><td>{}</td></tr>", "\n", escape)
FLAT["HTML table, lines"] = lambda fields: joined(
    fields, "<tr>\n<td>{}</td>\n<td>{}</td>\n</tr>", "\n", escape
)
FLAT["HTML form"] = lambda fields: "\n".join(
    f'<input value={quoteattr(v)} name="{n}">' for n, v in fields.items()
)
FLAT["HTML definition list"] = lambda fields: joined(fields, "<dt>{}</dt><dd>{}</dd>", "", escape)
FLAT["phpinfo"] = lambda fields: joined(fields, "$_SERVER['{}'] => {}", "\n", str)
FLAT["phpinfo, env"] = lambda fields: joined(fields, "{} => {}", "\n", str)
FLAT["diff"] = lambda fields: joined(fields, "-{0}=old\n+{0}={1}", "\n", str)
FLAT["diff of YAML"] = lambda fields: joined(fields, "+  {}: {}", "\n", str)
FLAT["diff of JSON"] = lambda fields: joined(fields, '+    "{}": {},', "\n", json_text)
FLAT["git grep"] = lambda fields: joined(fields, "deploy/app.env:7:{}={}", "\n", str)
FLAT["INI in journald"] = lambda fields: joined(
    fields, "Nov 15 08:39:03 gpu app[7]: {} = {}", "\n", str
)
FLAT["netrc"] = lambda fields: "\n".join(
    f"machine {n.lower()}.example.org\n  login bob\n  password {v}" for n, v in fields.items()
)
FLAT["ConfigParser dump"] = lambda fields: repr([(n.lower(), v) for n, v in fields.items()])
FLAT["OrderedDict"] = lambda fields: (
    "OrderedDict([" + ", ".join(f"({n!r}, {v!r})" for n, v in fields.items()) + "])"
)
FLAT["email headers"] = lambda fields: joined(fields, "{}:\n {}", "\n", str)
FLAT["prose list"] = lambda fields: joined(fields, "* {}: `{}`", "\n", str)
FLAT["prose bold"] = lambda fields: joined(fields, "- **{}**: {}", "\n", str)
FLAT["chat"] = lambda fields: joined(fields, "here is the {} {}", "\n", str)
FLAT["nix"] = lambda fields: joined(fields, "{} = {};", "\n", json_text)
FLAT["Lisp"] = lambda fields: "(" + joined(fields, "({} . {})", " ", json_text) + ")"
FLAT["Lisp setenv"] = lambda fields: joined(fields, '(setenv "{}" {})', "\n", json_text)
FLAT["C setenv"] = lambda fields: joined(fields, 'setenv("{}", {}, 1);', "\n", json_text)
FLAT["ltrace"] = lambda fields: joined(fields, 'getenv("{}") = {}', "\n", json_text)
FLAT["C define"] = lambda fields: joined(fields, "#define {} {}", "\n", json_text)
FLAT["PHP define"] = lambda fields: joined(fields, "define('{}', {});", "\n", _var_export)
FLAT["putenv"] = lambda fields: joined(fields, "putenv('{}={}');", "\n", str)
FLAT["Ansible debug"] = lambda fields: (
    "ok: [gpu] => {\n" + joined(fields, '    "{}": {}', ",\n", json_text)
)
FLAT["Ansible, one line"] = lambda fields: "gpu | SUCCESS => " + json.dumps(dict(fields))
FLAT["Ansible inventory"] = lambda fields: "gpu " + joined(fields, "{}={}", " ", shlex.quote)
FLAT["CSV"] = lambda fields: _csv([list(fields), list(fields.values())])
FLAT["CSV, pairs"] = lambda fields: _csv([[n, v] for n, v in fields.items()])
FLAT["TSV, pairs"] = lambda fields: joined(fields, "{}\t{}", "\n", str)


def _csv(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()
