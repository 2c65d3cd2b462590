"""The text that `synthesize` is given: an argument, a file or standard input, in any encoding."""

from __future__ import annotations

import codecs
import os
import re
import shlex
import sys
from pathlib import Path

from dsmops.errors import InputError, SourceError
from dsmops.files import os_errors

MOST_TEXT_BYTES = 1 << 20
"""A megabyte of text is some eighteen hours of speech."""

_BYTE_ORDER_MARKS = (
    # The longer one first: that of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FILE_NAME = re.compile(
    r"\S*\.(?:txt|text|md|markdown|rst|srt|vtt|csv|tsv|json|html?|xml|tex|log|rtf|docx?|odt|pdf|epub)",
    re.IGNORECASE,
)
"""A word that can only be the name of a file."""
_DOCUMENTS = {b"%PDF": "PDF", b"PK\x03\x04": "Word, OpenDocument or EPUB", b"{\\rtf": "RTF"}


def read_text(argument: str) -> str:
    """Return the text: standard input for `-`, a file of that name where there is one, else itself.

    Raises:
        InputError: it is a folder, a document that is not text, of an unknown encoding, longer than
            a megabyte, or empty.
        SourceError, FileAccessError: the file cannot be read; or the argument can only be the name
            of a file, and there is none.
    """
    if argument == "-" and sys.stdin is None:
        raise SourceError(
            "standard input is closed",
            hint="Give the text as an argument or a file, or pipe it into the command.",
        )
    if argument == "-":
        name, data = "standard input", sys.stdin.buffer.read(MOST_TEXT_BYTES + 1)
    elif (path := _file(argument)) is not None:
        name = str(path)
        with os_errors(path), path.open("rb") as file:
            data = file.read(MOST_TEXT_BYTES + 1)
    elif _FILE_NAME.fullmatch(argument):
        raise SourceError(
            f"{argument}: the file does not exist",
            hint=(
                f"Check the path. To synthesize these words: echo {shlex.quote(argument)} | "
                "dsmops synthesize - OUT"
            ),
            code="file.missing",
        )
    else:
        name, data = "the text", argument.encode(errors="surrogateescape")
    return decoded_text(data, name)


def is_text_file_name(word: str) -> bool:
    """Whether this can only be the name of a file of text, not a word to say."""
    return _FILE_NAME.fullmatch(word) is not None


def decoded_text(data: bytes, name: str) -> str:
    """Return the text in bytes that `name` calls, of which a megabyte and a byte are enough.

    Raises:
        InputError: it is a document that is not text, of an unknown encoding, longer than a
            megabyte, or empty.
    """
    if len(data) > MOST_TEXT_BYTES:
        raise InputError(
            f"{name} is longer than {MOST_TEXT_BYTES // 2**20} MiB",
            hint="Cut it into parts.",
            code="text.long",
        )
    text = _decoded(data, name)
    if not text.strip():
        raise InputError(
            f"there is nothing to synthesize: {name} is empty",
            hint="Give it some words.",
            code="text.empty",
        )
    return text


def _decoded(data: bytes, name: str) -> str:
    """Return text by its byte order mark, else as UTF-8.

    Raises:
        InputError: it is neither. The hint is a command that converts it.
    """
    for begin, kind in _DOCUMENTS.items():
        if data.startswith(begin):
            raise InputError(
                f"{name} is a {kind} document, not text",
                hint="Save it as plain text.",
                code="text.encoding",
            )
    encoding = next((known for mark, known in _BYTE_ORDER_MARKS if data.startswith(mark)), "")
    if not encoding and _is_wide(data):
        raise _not_decoded(name, "UTF-8", data.index(b"\0"), _guess(data))
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as exc:
        known = encoding.upper() or "UTF-8"
        raise _not_decoded(name, known, exc.start, encoding.upper() or _guess(data)) from exc


def _not_decoded(name: str, encoding: str, byte: int, guess: str) -> InputError:
    return InputError(
        f"{name} is not {encoding} (byte {byte})",
        hint=_conversion(name, guess),
        code="text.encoding",
    )


def _is_wide(data: bytes) -> bool:
    """Return whether this is UTF-16 without a mark: every other byte of Latin text is zero."""
    return data.count(0) > len(data) / 4


def _guess(data: bytes) -> str:
    """Return the likeliest encoding of bytes that are not UTF-8."""
    if _is_wide(data):
        # ASCII letters in UTF-16 have their zero byte behind them, or before.
        return "UTF-16LE" if data[1::2].count(0) >= data[::2].count(0) else "UTF-16BE"
    # 0x80 to 0x9F are letters and quotes in Windows' encoding, and nothing in Latin-1.
    return "CP1252" if any(0x80 <= byte <= 0x9F for byte in data) else "LATIN1"


def _conversion(name: str, encoding: str) -> str:
    if Path(name).is_file():
        source = shlex.quote(name)
        target = shlex.quote(f"{Path(name).stem}-utf8{Path(name).suffix or '.txt'}")
        command = f"iconv -f {encoding} -t UTF-8 {source} > {target}"
        return f"It seems to be {encoding}. Convert it: {command}"
    return (
        f"It seems to be {encoding}. Convert it: "
        f"iconv -f {encoding} -t UTF-8 TEXT | dsmops synthesize - OUT"
    )


def _file(argument: str) -> Path | None:
    path = Path(os.path.expanduser(argument))  # noqa: PTH111 the method fails at an unknown ~name
    try:
        path.stat()
    except PermissionError:  # something is there, or may be; opening it says what
        return path
    except (OSError, ValueError):  # nothing is there, or nothing can have such a name
        return None
    # An empty name would be this folder.
    return path if argument else None
