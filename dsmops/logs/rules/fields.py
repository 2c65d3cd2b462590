"""Rules for a value behind its name, and for headers of HTTP."""

from __future__ import annotations

from dsmops.logs.rules.edits import credential_edit, key_edit, secret_edit, text_edit
from dsmops.logs.rules.names import (
    BEGIN,
    CREDENTIAL_NAME,
    ENCODED_EQUALS,
    FOLLOWS,
    FOLLOWS_HINT,
    HIDDEN_WORDS,
    NAME_BEGINS,
    NAME_WORD,
    NAMED_NEEDLES,
    PASSWORD_NAME,
    PASSWORD_NEEDLES,
    PREFIX_OF_NAME,
    TEXT_NAME,
    TEXT_NEEDLES,
)
from dsmops.logs.rules.rule import Rule, words
from dsmops.logs.rules.values import BARE, LIST, QUOTED, WRAPPED

# --- texts to be spoken ---------------------------------------------------------------------------

TEXT = Rule(
    "text",
    needles=TEXT_NEEDLES,
    hint=rf"(?i:texts?|prompt|transcripts?){FOLLOWS_HINT}",
    source=rf"""
    {BEGIN} {TEXT_NAME}
    (?: {FOLLOWS} (?: {WRAPPED} {QUOTED} | {WRAPPED} {LIST} )
      | (?: = | {ENCODED_EQUALS} ) (?![="'\[({{]) (?P<bare> \S .*? ) (?= \s+ [a-z_]\w{{0,40}}= | $ ) )
""",
    edit=text_edit,
)

# `text: hello` is an announcement only where a message begins.
SAID = Rule(
    "text",
    needles=TEXT_NEEDLES,
    hint=r"(?i:text|prompt|transcript):\s",
    source=(
        r"(?: ^ | (?<=\|[ ]) | (?<=\][ ]) | (?<=\d:[ ]) ) (?i:text|prompt|transcript) : \s{1,3}"
        r" (?!None) (?P<said> [^\s\d\"'\[({] .* )"
    ),
    edit=text_edit,
)

# Debug of a WebSocket message.
MESSAGE = Rule(
    "text",
    needles=("text(", "binary("),
    hint=r"(?:Text|Binary)\(",
    source=rf"(?<!\w) (?:Text|Binary) \( {WRAPPED} {QUOTED}",
    edit=text_edit,
)

POST_BODY = Rule(
    "text",
    needles=("py asr streaming post query",),
    hint="py asr streaming post query",
    source=r"handling[ ]py[ ]asr[ ]streaming[ ]post[ ]query[ ] (?P<body> .+ )",
    edit=text_edit,
)

# --- headers of HTTP ------------------------------------------------------------------------------

COOKIE = Rule(
    "cookie",
    needles=("cookie", "-protocol"),
    hint="(?i:cookie|-protocol)",
    source=rf"""
    {BEGIN} (?: {PREFIX_OF_NAME} (?i: cookies? | sec-websocket-protocol ) ) {FOLLOWS} (?: {WRAPPED} {QUOTED} | (?P<rest> [^\s\"'] .* ) )
""",
    edit=key_edit,
)

AUTHORIZATION = Rule(
    "authorization",
    needles=("authorization",),
    hint="(?i:authorization)",
    source=rf"""
    {BEGIN} (?: {PREFIX_OF_NAME} (?i: authorization ) ) {FOLLOWS}
    (?: {WRAPPED} {QUOTED} | (?P<simple> (?i:Bearer|Basic|Token|ApiKey)\s{{1,3}}[^\s"',;<)}}\]]+ ) | (?P<rest> [^\s"'] .* ) )
""",
    edit=credential_edit,
)

BEARER = Rule(
    "authorization",
    needles=("bearer", "basic"),
    hint=r"(?:[Bb]earer|BEARER|Basic)(?:\s|%00|\+)",
    source=r"""
    (?<!\w) (?: (?:Bearer|BEARER|bearer|Basic) (?: \s{1,3} | %20 | \+ ) (?P<bare> (?=[\w.~+/=-]{0,200}?(?:\d|[a-z][A-Z]|=)) [\w.~+/=-]{8,} )
      | Bearer \s{1,3} (?P<word> [\w.~+/=-]{16,} ) )
""",
    edit=key_edit,
)

# --- secrets behind their names -------------------------------------------------------------------

# `"NAME=value of several words"` as an item of a list or an argument.
ASSIGNED = Rule(
    "key",
    needles=NAMED_NEEDLES,
    hint=rf"""["'][\w.$ -]{{0,120}}?{NAME_WORD}[=:]""",
    source=rf"""
    (?: (?<![\w:=]) (?<![:=][ ]) | (?<=-var=) ) (?P<edge> \\*["'] ) {CREDENTIAL_NAME} (?: = | :[ ]? )
    (?P<assigned> (?! ["'\\\[({{] ) (?: [^"'\\ &] | \\(?!["']) )*+ (?: [ &] | ["'](?=\w) | '\"'\"' | '\\'' )
      (?: [^"'\\] | ["'](?=\w) | '\"'\"' | '\\'' | \\(?!["']) )*? ) (?= (?P=edge)(?!\w) )
""",
    edit=secret_edit,
)

# Passwords alone hold blanks. One whose name begins the line is all that follows, unless another
# name or a sentence does.
_SENTENCE_WORD = (
    "is|was|must|not|has|should|cannot|can|will|required|expired|invalid|incorrect|mismatch|changed"
    "|reset|too|for|does|of|and|or"
)
# Of a collector, a diff or a list; the message of a server's line may be a sentence.
_LINE_PREFIX = r"""
    (?: 20\d\d-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:?\d\d) \s (?:std(?:out|err)\s[FP]\s)? | [\w-]{1,60}\s{1,60}\|\s | \[pod/[^\]\s]{1,300}\]\s )?
    \s{0,40} (?: [+>*|\#-]{1,3} \s{0,40} )?
"""
ALONE = Rule(
    "key",
    needles=PASSWORD_NEEDLES,
    hint=rf"{HIDDEN_WORDS}\]?[*`]{{0,2}}\s{{0,16}}[:=]",
    source=rf"""
    ^ {_LINE_PREFIX} (?: (?:export|declare\s-x|typeset\s-x|environment:|set|header:) \s )? [*`]{{0,2}}
    {PASSWORD_NAME} \]? [*`]{{0,2}} \s{{0,16}} (?: :(?:STRING)?= | =>? | : ) \s{{0,16}}
    (?P<rest> (?! ["'\[({{<] | [|>][+-]?$ | !! | & | \$\( | (?i:{_SENTENCE_WORD})\s )
      \S+ (?: [ ]{{1,2}} (?! [\w.-]{{1,80}}[=:] | \# | // | -- | -> | \| | \\ ) \S+ ){{1,40}} ) \s* $
""",
    edit=secret_edit,
)

# A password of several words within brackets: `Config(password=a b c, port=80)`.
WORDS = Rule(
    "key",
    needles=PASSWORD_NEEDLES,
    hint=rf"{HIDDEN_WORDS}\s?[=:]\s?[^\s\"',;=:(){{}}\[\]|&<]+[ ]",
    source=rf"""
    (?<= [\s,(\[{{] ) {PASSWORD_NAME} \s? (?: = | : ) \s?
    (?P<words> [^\s"',;=:(){{}}\[\]|&<]+ (?: [ ] [^\s"',;=:(){{}}\[\]|&]+ ){{1,8}}
      (?= , [ ] [\w@]{{1,40}} = | [)}}\]] | [ ] [A-Z]\w{{0,40}}:\S ) )
""",
    edit=secret_edit,
)

NAMED = Rule(
    "key",
    needles=NAMED_NEEDLES,
    hint=(
        # Not the pseudonym `<key:...>`: no name of a secret is `key` alone.
        rf"{NAME_BEGINS}"
        r"(?i:[hdnsy][-_]?ids?|(?<!<)keys?|code|secret|pass(?:wd|word|phrase|code|wort|e)?|kennwort|otp|auth|pwd|credentials?|jwt|(?<!\btext_)token|signature|string|key[-_]?data|psk)"
        rf"{FOLLOWS_HINT}|(?:--|(?<=\s)-)[A-Za-z0_][\w.$-]{{0,200}}\s"
    ),
    source=rf"""
    {BEGIN} (?P<query> (?<=[?&]) )? (?: (?P<option> -- | (?<=\s)-(?=[A-Za-z]) ) | ) {CREDENTIAL_NAME}
    (?: {FOLLOWS} | (?(option) \s{{1,3}} (?! - | (?:is|was|are|has|must|not|or|and|but|to|in|for|of|on|by|with|from|as|if|when|which|that|option|flag)\b ) | (?!) ) )
    (?: {WRAPPED} {QUOTED} | {WRAPPED} {LIST} | {WRAPPED} {BARE} )
""",
    edit=secret_edit,
)

# The new value of a plan, `"old" -> "new"`, after the old one was replaced.
CHANGED = Rule(
    "key",
    needles=("->", "→"),
    hint=r"\s(?:->|→)\s",
    source=rf"""
    <key:[0-9a-f]{{8}}> ["']? \s (?:->|→) \s (?: {QUOTED} | (?P<bare> (?! \( | null ) [^\s"'&]+ ) )
""",
    edit=key_edit,
)

# A parameter of a signed URL.
PARAMETER = Rule(
    "key",
    needles=words("key sig code auth access session sid policy verify"),
    hint="(?:[?&;]|%0[Ff]|%00)(?i:key|sig|code|auth|access|session|sid|policy|verify)",
    source=rf"""
    (?P<query> (?<=[?&;]) | (?<=%3[Ff]) | (?<=%26) )
    (?i: key | sig | signature | code | auth | access | session | sid | policy | key-pair-id | verify ) (?: = | (?P<encoded>%3[Dd]) ) {BARE}
""",
    edit=key_edit,
)
