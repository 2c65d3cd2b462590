"""What must not leave in a log: the redaction rules, by field name and by shape.

A rule finds a value and says what replaces it. Rules run in the order of `RULES` on one
line without its ending, in linear time whatever the line. Letters are ASCII letters only. What
disguises a name or a value was removed before, see `disguise`.

A hint is the rule as seen on a line whose digits all read 0: where it is absent the rule finds
nothing, whatever the digits and whatever earlier rules put into the line. `redaction` relies on it
to look at few lines. A new rule is one `Rule` in the module of its kind and one place in `RULES`; it
needs a hint, a higher `RULE_SET_VERSION`, and variants in the seeded corpus of the tests. A new
token shape is one line in `tokens`.

| Module | Rules for |
|---|---|
| `fields` | texts to be spoken, headers of HTTP, values behind their names |
| `placed` | values beside or before their names: tables, tags, rows of SQL |
| `sentences`, `commands` | what a sentence says; what statements, commands and protocols hold |
| `vendor_keys`, `tokens`, `shapes`, `pem` | what shows by its vendor or its shape |
| `people` | mail addresses, home folders, network addresses |
| `multiline`, `tables`, `pem` | what goes on in the next lines |

They share `names` and `values` (how those are written), `prefixes` (what stands before a line) and
`edits` (what takes the place of a value).
"""

from __future__ import annotations

from dsmops.logs.rules import (
    commands,
    fields,
    pem,
    people,
    placed,
    sentences,
    shapes,
    tokens,
    vendor_keys,
)
from dsmops.logs.rules.rule import Rule

RULES: tuple[Rule, ...] = (
    fields.TEXT,
    fields.SAID,
    fields.MESSAGE,
    fields.POST_BODY,
    pem.PEM,
    shapes.AWS_SECRET,
    fields.COOKIE,
    fields.AUTHORIZATION,
    fields.BEARER,
    placed.VALUE_FIRST,
    commands.SQL_PASSWORD,
    fields.ASSIGNED,
    fields.ALONE,
    fields.WORDS,
    fields.NAMED,
    fields.CHANGED,
    placed.INSERT,
    fields.PARAMETER,
    shapes.USERINFO,
    commands.USER_OPTION,
    commands.NETRC,
    placed.PLACED,
    sentences.SENTENCE,
    commands.COMMAND,
    sentences.PASSWORD_IN_SENTENCE,
    commands.COMMAND_KEY,
    commands.COMMAND_SECRET,
    commands.PROTOCOL_SECRET,
    shapes.WEBHOOK,
    shapes.PASSWORD_HASH,
    shapes.DOCKER_AUTH,
    shapes.JWT,
    shapes.AWS_ID,
    tokens.TOKEN,
    shapes.MULTIPART_TOKEN,
    shapes.RANDOM_TOKEN,
    # After the tokens, of which some have a word like `key-` in them.
    vendor_keys.VENDOR_KEY,
    people.EMAIL,
    people.HOME,
    people.IPV6_REVERSED,
    people.IPV4,
    people.IPV4_IN_HOST,
    people.IPV6,
    people.HEX_IN_HOST,
)
