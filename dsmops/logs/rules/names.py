"""How names of secrets are written, and what stands between them and their values.

`name=value`, `name: value`, `"name": "value"`, `("name", "value")`, `name("value")`,
`name: "name", value: "value"`, `name: Some("value")`, `x["name"] = "value"`, also where quotes are
escaped once or more, and in a URL inside a URL. All patterns are verbose.
"""

from __future__ import annotations

import re

from dsmops.logs.rules.rule import words

BEGIN = r"""
    (?: (?<![\w.-]) | (?<=%[0-9A-Fa-f]{2}) | (?<=%25[0-9A-Fa-f]{2}) )
    (?P<opened> (?<=["']) (?P<first> (?<![:=]["']) (?<![:=][ ]["']) (?<![:=]\\["']) (?<![:=][ ]\\["'])
        (?<![:=]\\{3}["']) (?<![:=][ ]\\{3}["']) )? )?
"""
# What a name may begin with: `_`, `--`, `__Host-`, `my.`, `openai`. The word that makes it a secret
# begins after anything but a letter or digit, or with a capital (`myApiKey`, `HFToken`).
PREFIX_OF_NAME = r"""
    [\w.$-]{0,80}? (?: (?<![A-Za-z0-9]) | (?<=[a-z0-9])(?=[A-Z]) | (?<=[A-Z])(?=[A-Z][a-z]) )
"""
_VALUE = r"""(?: (?:\\*["'])? [Vv]alue (?:\\*["'])? \s? [:=] \s? )"""
ENCODED_EQUALS = r"%(?:25){0,2}3[AaDd]"
# `token: str = "..."`, in Python and Rust.
_ANNOTATION = (
    r"(?: : \s? &?(?:'static\s)? (?:[A-Za-z.]{0,20}\[)? (?:str|String|bytes|SecretStr|Any) \]?"
    r" (?:\s?\|\s?None)? \s{0,3} = (?!=) )"
)
FOLLOWS = rf"""
    (?: (?(opened) \\*["'] \s{{0,3}} , \s{{0,3}} (?: {_VALUE} | (?(first) (?=b?\\*["']|\[) | (?!) ) ) | (?!) )
      | (?(opened) \\*["'] (?: \s{{1,3}} (?=\\*["']) | ; (?: s:\d{{1,9}}: (?=\\*["']) | a:\d{{1,9}}: (?=\{{) ) ) | (?!) )
      | \( \s? (?=(?:[A-Z]\w{{0,40}}\()?b?\\*["'])
      | \s -> \s (?= \\*["'] | [^\s,)]{{0,99}}\d | [^\s,()]{{6,99}}[,)] ) | \s \. \s (?=\\*["'])
      | (?:\\*["'`]|\*{{1,3}})? [\])}}]{{0,2}} \s{{0,16}}
        (?: => | {_ANNOTATION} | (?:\|\||\?\?|[:?+])?=(?!=) | [=!]={{1,2}}(?=\s?\\*["'])
          | :(?!:) \*{{0,3}} | (?P<encoded>{ENCODED_EQUALS}) ) \s{{0,16}}
        (?: (?: !!?\w{{1,20}} | &\w{{1,40}} ) \s{{1,3}} )?+ )
"""
TEXT_NAME = rf"(?: {PREFIX_OF_NAME} (?i: texts?|prompt|transcripts?) )"
CREDENTIAL_NAME = rf"""
    (?P<name> {PREFIX_OF_NAME} (?i:
        auth[-_]?ids? | authorized[-_]?ids? | auth[-_]?key | authorization[-_]?(?:key|token|code) | api[ ]key
      | (?:api|access|secret|private|signing|encryption|redaction|session|account|master|service|subscription|license|admin
          |consumer|app|hmac|deploy|shared)[-_]?(?:access[-_]?)?keys?(?:[-_]?id)?
      | (?:[a-z0-9]{{0,40}}) (?:secret|passwd|password|passphrase|passcode|passwort|kennwort) | mot[ ]de[ ]passe
      | [a-z]{{1,20}}[-_]pass | otp | npm[-_]?auth | pwd | credentials? | session[-_]?id | jwt
      | (?:[a-z0-9]{{0,20}}) (?:access|refresh|auth|session|id|api|hf|bearer|security|client|user|csrf|xsrf|device|bot|login|secret)?
        [-_]? token
      | x-(?:amz|goog)-(?:signature|credential|security-token) | awsaccesskeyid | ossaccesskeyid | sharedaccesssignature
      | connection[-_]?string | secret[-_]?string | client[-_]?key[-_]?data | psk
    ))
"""
PASSWORD_NAME = rf"""
    (?P<name> {PREFIX_OF_NAME} (?i: [a-z0-9]{{0,40}} (?:secret|passwd|password|passphrase|passwort|kennwort) | [a-z]{{1,20}}[-_]pass ) )
"""
# A cell of a header.
COLUMN = re.compile(
    rf"""["'`*\[]{{0,2}} {CREDENTIAL_NAME} ["'`*\]]{{0,2}}""", re.ASCII | re.VERBOSE
)
# What the cell beside a name holds where it does not hold a secret.
TYPE_WORD = (
    "strings?|str|int|integer|number|bool|boolean|bytes|object|array|uuid|file|path|value|required"
    "|optional|sufficient|requisite|include|default|deprecated|yes|no|none|null|true|false|varchar"
    "|text"
)
BAR = "|│┃║"  # inside a character class

# --- hints and needles ----------------------------------------------------------------------------

# What of a name and of what follows it shows on a line whose digits read 0, but for two harmless
# ones that come on every connection, `text_token=17` and `auth_id: None`, and for pseudonyms.
FOLLOWS_HINT = (
    r"""(?:(?:\\*["'`]|\*{1,3})?[\])}]{0,2}\s{0,16}[|?+!:]{0,2}(?:[=:,]|%0{1,5}[AaDd])|\(\s?(?:[A-Z]\w{0,40}\()?b?\\*["']"""
    r"""|\\*["'](?:;[as]:|\s{1,3}\\*["'])|\s->\s|\s\.\s\\*["'])"""
    r"""(?! None[,;)}\]]{0,4}(?:[\s"'&]|$)|\s?\\*["']?<key:[0a-f]{8}>(?:[\\"'\s,;)}\]<]|$))"""
)
NAME_WORDS = (
    "[hdnsy][-_]?ids?|keys?|code|secret|pass(?:wd|word|phrase|code|wort|e)?|kennwort|otp|auth"
    "|pwd|credentials?|jwt|token|signature|string|key[-_]?data|psk"
)
# At most characters none of the words begins: to see that at once takes half the time.
NAME_BEGINS = "(?=[acdhjknopstyACDHJKNOPSTY])"
NAME_WORD = f"{NAME_BEGINS}(?i:{NAME_WORDS})"
BARS = "(?:[|]|│|┃|║)"  # in a pattern of bytes
HIDDEN_WORDS = "(?i:secret|pass(?:wd|word|phrase|wort)?|kennwort)"
TEXT_NEEDLES = words("text prompt transcript")
NAMED_NEEDLES = words(
    "id key code secret pass kennwort otp auth pwd credential jwt token signature string psk --"
)
PASSWORD_NEEDLES = words("secret pass kennwort")
