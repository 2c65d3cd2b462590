"""Disguises that logs put on by themselves: each makes of a message what some program makes of it.

A disguise is a name, a function of the message and its secret, and whether the secret is still
there in one piece. Written from what the named programs do, independently of the code that sees
through it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from urllib.parse import quote


@dataclass(frozen=True)
class Disguise:
    """What a program makes of `auth_id="value" ` and other messages.

    `dress` gets them and the secret.
    """

    name: str
    dress: Callable[[str, str], str]


def _inside(mark: str) -> Callable[[str, str], str]:
    """Put a mark after the first letter of the name, around delimiters, and into the value."""

    def dress(message: str, secret: str) -> str:
        middle = len(secret) // 2
        hidden = secret[:middle] + mark + secret[middle:]
        before, _, after = message.partition(secret)
        return before[:2] + mark + before[2:-1] + mark + before[-1:] + mark + hidden + mark + after

    return dress


def _around(before: str, after: str) -> Callable[[str, str], str]:
    """Put marks around the name and around the value, as a program that highlights does."""

    def dress(message: str, secret: str) -> str:
        head, _, tail = message.partition(secret)
        return f"{before}{head[:-1]}{after}{head[-1:]}{before}{secret}{after}{tail}"

    return dress


def _spelled(spell: Callable[[str], str]) -> Callable[[str, str], str]:
    """Colour the message, and let a collector spell the colours."""

    def dress(message: str, secret: str) -> str:
        coloured = _around("\x1b[3m", "\x1b[0m")(message, secret)
        return coloured.replace("\x1b", spell("\x1b"))

    return dress


def _all(change: Callable[[str], str]) -> Callable[[str, str], str]:
    return lambda message, _: change(message)


def _bytes_of_journald(message: str) -> str:
    return json.dumps({"MESSAGE": list(message.encode()), "PRIORITY": "6"})


ESCAPES = {
    "grep --color": ("\x1b[01;31m\x1b[K", "\x1b[m\x1b[K"),
    "colon colours": ("\x1b[38:2::255:0:0m", "\x1b[39m"),
    "cursor hidden and shown": ("\x1b[?25l", "\x1b[?25h"),
    "character set": ("\x1b(0", "\x1b(B"),
    "hyperlink": ("\x1b]8;;https://example.org/\x1b\\", "\x1b]8;;\x1b\\"),
    "hyperlink ended by BEL": ("\x1b]8;id=1;https://example.org/\x07", "\x1b]8;;\x07"),
    "window title": ("\x1b]0;server\x07", ""),
    "device control string": ("\x1bP1$r0m\x1b\\", ""),
    "application command": ("\x1b_Gi=1;AAAA\x1b\\", ""),
    "C1 sequence": ("\x9b1m", "\x9b0m"),
    "cursor moves": ("\x1b[2K\x1b[1G", "\x1b[1C"),
    "keypad and saved cursor": ("\x1b=\x1b7", "\x1b8\x1b>"),
    "insert blanks": ("\x1b[4h\x1b[1@", "\x1b[4l"),
    "tmux passthrough": ("\x1bPtmux;\x1b\\", ""),
}
INVISIBLE = {
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "right-to-left mark": "\u200f",
    "directional isolate": "\u2068",
    "variation selector": "\ufe0f",
    "combining grapheme joiner": "\u034f",
    "tag character": "\U000e0041",
    "Mongolian vowel separator": "\u180e",
    "Hangul filler": "\u3164",
    "NUL": "\x00",
    "shift out": "\x0e",
}
SPELLINGS = {
    "Rust and Python": "\\x1b",
    "JSON": "\\u001b",
    "JSON, upper case": "\\u001B",
    "JSON in JSON": "\\\\u001b",
    "shell": "\\033",
    "GNU shell": "\\e",
    "rsyslog": "#033",
    "cat -v": "^[",
    "Rust Debug": "\\u{1b}",
    "URL": "%1B",
    "HTML": "&#27;",
    "symbol for escape": "\u241b",
}

DISGUISES: list[Disguise] = [
    *(Disguise(name, _around(*marks)) for name, marks in ESCAPES.items()),
    *(Disguise(f"{name}, everywhere", _inside("".join(marks))) for name, marks in ESCAPES.items()),
    *(Disguise(name, _inside(mark)) for name, mark in INVISIBLE.items()),
    *(
        Disguise(f"colours spelled for {name}", _spelled(lambda _, text=text: text))
        for name, text in SPELLINGS.items()
    ),
    *(
        Disguise(f"invisible, spelled: {text}", _inside(text))
        for text in (
            "\\u200b",
            "\\xe2\\x80\\x8b",
            "%E2%80%8B",
            "&#8203;",
            "&ZeroWidthSpace;",
            "&shy;",
        )
    ),
    Disguise("quotes as JSON escapes", _all(lambda m: m.replace('"', "\\u0022"))),
    Disguise("quotes as JSON escapes, twice", _all(lambda m: m.replace('"', "\\\\u0022"))),
    Disguise("Go's JSON", _all(lambda m: json.dumps(m.replace("=", "\\u003d"))[1:-1])),
    Disguise("gson", _all(lambda m: m.replace("=", "\\u003d").replace("'", "\\u0027"))),
    Disguise("all hexadecimal", _all(lambda m: "".join(f"\\x{ord(c):02x}" for c in m))),
    Disguise("JSON string", _all(lambda m: json.dumps({"log": m + "\n"}))),
    Disguise("JSON string in one", _all(lambda m: json.dumps({"a": json.dumps({"log": m})}))),
    Disguise("URL", _all(lambda m: "GET /?q=" + quote(m, safe=""))),
    Disguise("URL in a URL", _all(lambda m: "GET /?q=" + quote(quote(m, safe=""), safe=""))),
    Disguise("URL, lower case", _all(lambda m: "q=" + quote(m, safe="").replace("%3D", "%3d"))),
    Disguise("HTML", _all(lambda m: f"<td>{escape(m)}</td>")),
    Disguise("HTML, twice", _all(lambda m: escape(escape(m)))),
    Disguise("HTML, numbers", _all(lambda m: m.replace('"', "&#34;").replace("=", "&#x3D;"))),
    Disguise("full-width signs", _all(lambda m: m.replace("=", "\uff1d").replace(":", "\uff1a"))),
    Disguise("no-break spaces", _all(lambda m: m.replace(" ", "\u00a0"))),
    Disguise("bytes of journald", _all(_bytes_of_journald)),
    Disguise("man page", _all(lambda m: "".join(f"{char}\b{char}" for char in m))),
    Disguise("overprinted by another line", lambda m, _: f"{m}\rdone\x1b[K"),
    Disguise("after a progress bar", lambda m, _: f"  10%|#    |\r  50%|##   |\r{m}"),
    Disguise("pieced together on the screen", lambda m, _: f"{' ' * 5}{m[5:]}\r{m[:5]}"),
    Disguise("progress in JSON", lambda m, _: json.dumps({"log": f"10%\r{m}\r\n"})),
    Disguise("CR of Windows", lambda m, _: f"{m}\r"),
    Disguise("diff", lambda m, _: f"+{m}"),
    Disguise("diff, removed", lambda m, _: f"-{m}"),
    Disguise("quoted mail", lambda m, _: f"> > {m}"),
    Disguise("set -x", lambda m, _: f"++ {m}"),
    Disguise("grep -n", lambda m, _: f"server.env:12:{m}"),
    Disguise("bullet", lambda m, _: f"* {m}"),
    Disguise("Markdown", lambda m, _: f"`{m}`"),
    Disguise("journald", lambda m, _: f"Nov 15 08:39:03 gpu moshi-server[77]: {m}"),
    Disguise("containerd", lambda m, _: f"2025-11-15T08:39:03.595169123Z stderr F {m}"),
]


def messages(rng: random.Random) -> list[tuple[str, str]]:
    """Messages with a secret in each, one of each way in which a value follows its name."""

    def value() -> str:
        return "".join(rng.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(18))

    found = []
    for form in (
        'auth_id="{}" end',
        "token={}",
        '"api_key": "{}"',
        'auth_id: Some("{}")',
        "Authorization: Bearer {}",
    ):
        secret = value()
        found.append((form.format(secret), secret))
    return found
