"""Rules for a value beside its name, without `=` or `:`, or before it.

`ENV NAME value` and other statements, `<name>value</name>`, table cells of HTML and Markdown,
attributes, commands of GitHub Actions, a line of a name and a value alone (netrc, columns), and
rows of SQL.
"""

from __future__ import annotations

import re

from dsmops.logs.disguise import unveil
from dsmops.logs.rules.edits import is_harmless, secret_edit
from dsmops.logs.rules.names import (
    BAR,
    BARS,
    COLUMN,
    CREDENTIAL_NAME,
    NAME_WORD,
    NAMED_NEEDLES,
    TYPE_WORD,
)
from dsmops.logs.rules.prefixes import PREFIX
from dsmops.logs.rules.rule import Edit, Pseudonym, Rule
from dsmops.logs.rules.values import LIST, QUOTED

PLACED = Rule(
    "key",
    needles=NAMED_NEEDLES,
    hint=(
        rf"(?:ENV|setx|setenv|#define|set\s-\w{{1,4}}|(?i:env:))\s{{0,3}}[\"']?[\w.$ -]{{0,120}}?{NAME_WORD}"
        rf"|(?:[<>:]|{BARS})\s{{0,40}}[*`]{{0,2}}[\"']?[\w.$ -]{{0,120}}?{NAME_WORD}[\"'*`]{{0,3}}(?:[\s><]|,\s[\"']|{BARS})"
        rf"|=\\*[\"']?(?=[\w.$ -]{{0,160}}+\\*(?:[\"']|::))[\w.$ -]{{0,120}}?{NAME_WORD}\\*(?:[\"']|::)"
        rf"|\{{\s?[\"']?(?=[\w.$-]{{0,160}}+[\"']?\s?,)[\w.$-]{{0,120}}?{NAME_WORD}[\"']?\s?,"
        rf"|{NAME_WORD}(?:\s{{1,40}}|,|\s{{1,40}}{BARS}\s)\S+(?:\s*$|(?:\\[nr])*\"\s?[,}}])|\t0+\t[\w.$ -]{{0,120}}?{NAME_WORD}\t"
    ),
    source=rf"""
    (?: (?P<statement> (?<![\w-]) (?: ENV | setx | setenv | \#define | set\s-\w{{1,4}}
          | (?i:set-item) \s{{1,3}} (?:-\w{{1,9}}\s)? (?i:env:) ) \s{{0,3}} )
      | (?P<element> < (?:\w{{1,40}}:)? )
      | (?P<cell> (?: < (?:td|th|dt|b|code|strong|span|label) > | [{BAR}] ) \s{{0,40}} [*`]{{0,2}} )
      | (?P<attribute> (?<!\w) (?:name|key|id|property) = \\*["'] )
      | (?P<workflow> ::[a-z-]{{1,20}}\sname= )
      | (?P<tuple> \{{ \s? | (?<![\w:]) : (?=[\w-]{{1,80}}\s(?:\\*["']|\[)) )
      | (?P<jar> ^ (?:\S.{{0,200}}[\s\d:])?? [\w.\#-]{{1,253}} \t (?i:TRUE|FALSE) \t \S{{1,200}} \t (?i:TRUE|FALSE) \t \d{{1,20}} \t )
      | (?P<line> ^ {PREFIX.pattern} )
    ) ["']? {CREDENTIAL_NAME}
    (?: (?(statement) ["']? [\s,]{{1,3}} ["']? | (?!) )
      | (?(element) (?:\s[^<>]{{0,200}})? > \s{{0,40}} | (?!) )
      | (?(cell) \s{{0,40}} [*`]{{0,2}} \s{{0,40}} (?: (?: </\w{{1,12}}> \s{{0,9}} ){{1,3}} (?: <\w{{1,12}}[^<>]{{0,200}}> \s{{0,9}} ){{1,3}}
            (?: Bearer\s )? | [{BAR}] \s{{0,40}} [*`]{{0,2}} (?= [^{BAR}]{{6,400}} [{BAR}] ) (?! [^{BAR}]* [a-z] [ ] [a-z]+ [ ] ) ) | (?!) )
      | (?(attribute) \\*["'] (?: [^<>]{{0,200}}? (?<!\w) (?:value|content) = \\*["'] | \s{{1,4}} (?=\S[^<>]{{0,400}}\s--) ) | (?!) )
      | (?(workflow) :: | (?!) )
      | (?(tuple) (?: \s? , \s? (?: << )? (?=\\*["']) | \s (?=\\*["']|\[) ) | (?!) )
      | (?(jar) \t | (?!) )
      | (?(line) (?: \s{{1,40}} | , | \s{{1,40}}\|\s ) (?= \S{{8,200}} \s* (?: $ | " \s? [,}}] ) ) (?= \S{{0,199}}\d ) (?= \S{{0,199}}[A-Za-z] ) | (?!) )
      | (?(line) (?: \s{{2,40}} | \t | \s{{1,40}}[{BAR}]\s )
          (?! (?i: {TYPE_WORD} ) (?![\w-]) ) (?= [^\s|]{{6,200}} \s* (?: $ | " \s? [,}}] ) ) | (?!) )
      | (?(line) (?: (?<=[A-Z]) \s (?= [\w+=-]{{21,200}} \s* $ ) | ["'] , \s ["'] (?= \S{{2,400}} ["'] \s* $ ) ) | (?!) )
    ) (?: (?(element) (?P<inner> [^\s<] .{{0,4000}}? (?= \s* </ ) | [^\s<>]+ ) | (?!) )
      | (?(cell) (?P<column> (?: [^<{BAR}]+? | [^{BAR}]+? (?= \s* [{BAR}] ) ) (?= [*`]{{0,2}} \s* (?: [{BAR}] | </ ) ) | [^\s<>{BAR}]+ ) | (?!) )
      | (?(attribute) (?P<set> [^<>]{{1,4000}}? (?= \\*["'] \s* (?: [\s/>,;)}}\]] | $ ) | \s-- ) ) | (?!) )
      | (?(statement) (?P<stated> \S+ (?: [ ] (?! \w{{1,80}}= | \\ ) \S+ ){{0,20}}? (?= \s* (?: ["'](?!\w) | $ ) ) ) | (?!) )
      | (?(line) (?P<word> (?! [<>{BAR}] ) \S+? (?= \s | ["']?$ | "\s?[,}}] ) ) | (?!) ) | (?(jar) (?P<kept> \S+ ) | (?!) )
      | (?(tuple) (?: {QUOTED} | {LIST} ) | (?!) )
      | (?P<bare> (?! [<>{BAR}] ) [^\s"'<>`&]+ ) )
""",
    edit=secret_edit,
)


def _first_value_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Replace a value that stands before its name."""
    value = unveil(match["first_value"])
    if is_harmless(value):
        return None
    return Edit(*match.span("first_value"), pseudonym("key", value))


# `"value": "...", "name": "HF_TOKEN"`, and `<input value="..." name="csrf_token">`.
VALUE_FIRST = Rule(
    "key",
    needles=("value",),
    hint=r"""[Vv]alue(?:\\*["'])?\s?[:=]\s?\\*["']""",
    source=rf"""
    (?<!\w) (?P<mark> \\*["'] )? [Vv]alue (?(mark) (?P=mark) ) \s? [:=] \s? (?P<edge> \\*["'] )
    (?P<first_value> (?: (?! \\*["']? [\s,]{{1,3}} \\*["']? (?: [NnVv]a[ml]u?e | [Kk]ey | id ) \\*["']? \s? [:=] ) . ){{1,4096}}? )
    (?= (?P=edge) [\s,]{{1,3}} (?(mark) (?P=mark) )
      (?: [Nn]ame | [Kk]ey | id ) (?(mark) (?P=mark) ) \s? [:=] \s? (?P=edge) {CREDENTIAL_NAME} (?P=edge) )
""",
    edit=_first_value_edit,
)

_SQL_PART = re.compile(
    r"'(?P<text>(?:[^'\\]|''|\\.)*+)'|(?P<sign>[(),])|(?P<word>[^'(),\s][^'(),]*)"
)


def _inserted_edits(match: re.Match[str], pseudonym: Pseudonym) -> list[Edit]:
    """Replace the values of the columns that hold secrets, in each row of a statement."""
    names = enumerate(match["columns"].split(","))
    secret = {at for at, name in names if COLUMN.fullmatch(name.strip())}
    edits: list[Edit] = []
    column = depth = 0
    for part in _SQL_PART.finditer(match.string, *match.span("rows")) if secret else ():
        sign = part["sign"]
        if not sign:
            group = part.lastgroup or ""
            if depth and column in secret and not is_harmless(part[group].strip()):
                edits.append(Edit(*part.span(group), pseudonym("key", part[group])))
            continue
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "," and depth == 1:
            column += 1
        elif depth <= 0:
            column = depth = 0
    return edits


# `INSERT INTO users (name, password) VALUES ('bob', '...')`: values stand in the order of columns.
INSERT = Rule(
    "key",
    needles=(" into ",),
    hint=r"(?i:insert|replace)\s(?:\w+\s){0,2}(?i:into)\s",
    source=r"""
    (?i: (?<!\w) (?:insert|replace) \s (?: \w{1,9} \s ){0,2} into \s ) [^\s(]{1,200} \s{0,3}
    \( (?P<columns> [^()]{1,4000} ) \) \s{0,3} (?i: values ) \s{0,3} (?P<rows> \( .* )
""",
    edit=_inserted_edits,
)
