"""How values are written: patterns of strings, of bare words, of lists, of arguments of commands.

All patterns are verbose.
"""

from __future__ import annotations

# What some printers put before a string: its type, its length, its address.
WRAPPED = r"""
    (?: (?:Some|Ok|Secret|Optional|Str) \( | string\(\d{1,9}\)\s | \((?:\[\])?string\)\s (?: \(len=\d{1,9}(?:\scap=\d{1,9})?\)\s )?
      | 0x[0-9a-f]{4,16}\s (?=\\*") | << (?=\\*") ){0,3}
"""
# A string ends at its own quote. Within a string of a string (`\"`) a backslash at the end of a
# value is written as four. `"C:\dir\" token="x"` is written by programs that escape nothing: what
# looks like one value that ends with `=` goes on to the next quote.
QUOTED = r"""
    (?: (?:[A-Z]\w{0,40}\( | & | r\#{1,3} | [bBfFrRuU]{1,2}(?=\\*["']) ){0,4}
      (?: (?P<quote> \"\"\" | \'\'\' | ["'] )
          (?P<quoted> (?: (?!(?P=quote))[^\\] | \\. | (?<=[^=:,(\[{\s"'])(?P=quote)(?P=quote)(?=[^\s,;)\]}]) )*+
            (?: (?: (?<=[=:(,]) | (?<=[=:,]\s) ) (?P=quote) (?![\s,;)\]}]|$) (?: (?!(?P=quote))[^\\] | \\. )*+ )?
            (?: (?P=quote) (?: \"'\" | '\"' | \\["'] ) (?P=quote) (?: (?!(?P=quote))[^\\] | \\. )*+ ){0,20}+
            (?: (?P=quote) (?=\w) [^"'=:\\\s]{1,64} (?= (?P=quote) (?:[\s,;)\]}<&]|$) ) )? )
          (?: (?P=quote) | \\?$ )
        | (?P<once> \\["'] ) (?P<quoted_once> .*? ) (?: (?<!\\)(?:\\{4}){0,8}(?P=once) | $ )
        | (?P<often> \\{2,}["'] ) (?P<quoted_often> .*? ) (?: (?<!\\)(?P=often) | $ ) ) )
"""
# A bare value ends before a blank, a quote or `&`; commas and brackets at its end belong to what is
# around it. A quote between letters is part of it, and so is an `&` that no parameter follows, but
# not in a query. An encoded `&` ends only what an encoded `=` began.
_NEXT_PARAMETER = r"& (?= \#?\w{1,8}; | [\w.~%\[\]-]{1,80} (?: = | %3[Dd] ) | [\s\"'] | $ )"
BARE = rf"""
    (?P<bare> (?: [^\s"'&] | (?<=[^\s,;:=({{\[]) ["'] (?=\w) | (?<=\\)[ ] (?=\w) | (?! {_NEXT_PARAMETER} ) & )+?
      (?= [,;)\]}}]{{0,4}} (?: (?<!\\)\s | \s(?!\w) | \\*["'](?!\w) | {_NEXT_PARAMETER} | </
          | (?(query) & | (?!) ) | (?(encoded) %(?:25){{0,2}}26 | (?!) ) | $ ) ) )
"""
# A list, a set, a struct: to its closing bracket, and where brackets are nested deeper than that to
# the end of the line.
STRING = r"""(?: "(?:[^"\\]|\\.)*+"? | '(?:[^'\\]|\\.)*+'? )"""
_FLAT = rf"""(?: {STRING} | [^"'()\[\]{{}}] )"""
LIST = rf"""
    (?P<list> (?! (?:Some|Ok|Secret|Optional|Str)\( ) (?: [A-Za-z]\w{{0,40}}[ ]? | (?:map)?\[\w{{0,20}}\]\w{{1,20}} )? [(\[{{]
      (?: {_FLAT} | [(\[{{] {_FLAT}*+ [)\]}}] )*+ (?: [)\]}}] | .* ) )
"""

# --- arguments of commands ------------------------------------------------------------------------

MOST_CHARS = 4096
"""Of a string of SQL, in which a quote may be doubled."""


def quoted(name: str) -> str:
    """Return a verbose pattern of a string that may hold blanks; a group is what its quotes hold.

    Quotes may be escaped, as in JSON within JSON.
    """

    def string(kind: str, quote: str) -> str:
        value = rf"(?P<{name}_{kind}> (?: [^{quote}\\\n]++ | \\++(?!{quote}) )++ )"
        return rf"\\*{quote} {value} \\*{quote}"

    return f"(?: {string('double', chr(34))} | {string('single', chr(39))} )"


# It ends before an escaped quote too.
BARE_WORD = r"""(?: [^\s"'\\] | \\++(?!["']) )++"""
_NO_OPTION = rf"(?!-){BARE_WORD}"


def argument(name: str, bare: str = _NO_OPTION) -> str:
    """Return a verbose pattern of an argument of a command, quoted or not.

    It passes over one that was replaced before, so that the next option is looked for.
    """
    return rf"""(?: (?! (?:\\*["'])? <key: ) (?: {quoted(name)} | (?:\\*["'])? (?P<{name}> {bare} ) ) )"""
