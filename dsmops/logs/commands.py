"""Patterns for secrets that statements of SQL, command lines and protocols hold.

A hint matches every line in which its pattern finds something, with all digits of the line as 0,
see `rules`.

Sources: the manuals of the named programs; RFC 1939 and 959 (`PASS`), 3501 (`LOGIN`), and 4954
(`AUTH`).
"""

from __future__ import annotations

from dsmops.logs.vendor_keys import BARE_WORD, MOST_CHARS, argument

# What a sentence goes on with after the word for a secret, in place of the secret.
_SENTENCE = r"""
    (?! (?i: is|was|are|has|had|may|must|should|can|cannot|will|not|for|of|and|or|too|empty
          |missing|required|expired|invalid|incorrect|wrong|mismatch|changed|reset|accepted|rejected
          |disabled|enabled|done|ok|failed|failure|succeeded|success|successful|completed|denied
          |error ) (?![\w-]) )
"""
# A quoted text, a word with a digit, or eight characters: what shorter words say is a sentence.
_LIKELY = r"""(?= \\*["'] | \S{0,99}\d | \S{8} )"""
_SAYS_WHY = (
    r"(?! (?i: may|must|should|can|cannot|is|was ) \s (?i: not|be|too|empty|required|invalid )\b )"
)
# A quote within is doubled, or escaped. If a backslash precedes the quote, the whole statement is
# inside a string.
_SQL_STRING = rf"""
    (?: ' {_SAYS_WHY} (?P<single> (?: [^'\\] | '' | \\. ){{1,{MOST_CHARS}}}+ ) '
      | " {_SAYS_WHY} (?P<double> (?: [^"\\] | "" | \\. ){{1,{MOST_CHARS}}}+ ) "
      | \\++["'] {_SAYS_WHY} (?P<string> [^"'\\]{{1,{MOST_CHARS}}}+ ) \\++["'] )
"""
SQL_PASSWORD = rf"""
    (?<!\w) (?i: identified \s{{1,3}} (?: with \s{{1,3}} \S{{1,64}} \s{{1,3}} )? (?: by | as )
          (?: \s{{1,3}} (?:password|values) )?
      | (?: with | encrypted | login | set | , ) \s{{1,3}} password \s{{0,3}} =?
      | set \s{{1,3}} password \s [^=;\n]{{0,200}} = ) \s{{0,3}} (?i: N(?=') | password\s?\( )?
    {_SQL_STRING}
"""
SQL_PASSWORD_NEEDLES = ("password", "identified")
SQL_PASSWORD_HINT = r"(?i:identified|password)\b"

_TAKES_STDIN = r"""
    (?: --password-stdin | --with-token | --stdin | --passphrase-fd | chpasswd
      | sudo\s(?:-\w\s(?:[\w.-]{1,40}\s)??){0,3}-S )
"""
COMMAND_SECRET = rf"""
    (?<![\w-]) (?: echo | printf ) \s (?: -\w\s | ["']?%s(?:\\+n)?["']?\s )?
      {argument("piped")} \s? \|
      (?= [^|\n]{{0,200}}? {_TAKES_STDIN} )
  | {_TAKES_STDIN} [^|<\n]{{0,200}} <<< \s? {argument("given")}
  | (?<![\w-]) gh[ ]secret[ ]set[ ] [^|;&\n]{{0,200}}? (?:-b|--body) [ =] {argument("body")}
  | (?<![\w-]) aws[ ]ssm[ ]put-parameter[ ] [^|;&\n]{{0,400}}? --value [ =] {argument("parameter")}
  | (?<![\w-]) vault[ ]login[ ] (?![a-z]+(?:\s|$)) {argument("vault")}
  | (?<![\w-]) cargo[ ]login[ ] (?: --\S{{1,200}}\s ){{0,2}} (?=\S{{0,99}}\d) {argument("cargo")}
  | (?<![\w-]) twine[ ]upload[ ] [^|;&\n]{{0,200}}? -p[ ] {argument("twine")}
  | (?<![\w-]) (?:composer|poetry)[ ]config[ ] (?: --?\w{{1,20}}\s ){{0,3}}
      (?: http-basic\.\S{{1,200}} \s \S{{1,200}}
        | (?:pypi-token|github-oauth|gitlab-token|bearer)\.\S{{1,200}} )
      \s {argument("config")}
  | (?<![\w-]) kv[ ]put[ ] \S{{0,200}}? (?:password|secret|token|key) \s {argument("stored")}
  | (?<![\w-]) -(?:src|dest)?(?:store|key)pass \s{{1,3}} {argument("store")}
  | (?<![\w-]) wpa_passphrase[ ] \S{{1,64}} \s {argument("wpa")}
  | (?<![\w-]) wifi[ ]connect[ ] \S{{1,64}} \s password \s {argument("wifi")}
  | (?<![\w-]) ssh-keygen[ ] [^|;&\n]{{0,200}}? (?<=[ ])-[NP][ ] {argument("phrase")}
  | (?<![\w-]) zip[ ] [^|;&\n]{{0,200}}? (?<=[ ])-P[ ]? {argument("zip")}
  | (?<![\w-]) 7z[az]?[ ] [^|;&\n]{{0,200}}? (?<=[ ])-p {_LIKELY} {argument("archive")}
  | \#\#vso\[task\.setvariable\s
      (?= [^\]\n]{{0,200}} (?:issecret=true|(?i:key|token|secret|password)) )
      [^\]\n]{{0,200}} \] (?P<variable> \S+ )
"""
COMMAND_SECRET_NEEDLES = (
    "echo", "printf", "<<<", "secret set", "put-parameter", " login", "twine ", " config ",
    "kv put", "storepass", "keypass", "wpa_pass", "wifi ", "ssh-keygen", "zip ", "0z", "##vso",
)  # fmt: skip
COMMAND_SECRET_HINT = (
    r"--(?:password-)?stdin|--with-token|--passphrase-fd|chpasswd|sudo\s|<<<"
    r"|secret set |put-parameter|(?:vault|cargo) login|twine upload"
    r"|(?:composer|poetry) config|kv put|(?:store|key)pass\s|wpa_passphrase|wifi connect|ssh-keygen"
    r"|zip |0z[az]? |##vso"
)

# `main.rs:5432:...` is a place in a file, not a host and its port.
_FILE_SUFFIX = (
    "(?:rs|py|pyx|c|cc|cpp|cxx|h|hpp|cu|cuh|js|jsx|ts|tsx|go|java|kt|rb|php|sh|sql|log|txt|md|toml"
    "|ya?ml|json|xml|html?|cfg|conf|ini)"
)
PROTOCOL_SECRET = rf"""
    "AUTH" \s (?: "[^"\s]{{1,64}}" \s )? " (?P<redis> [^"]{{1,{MOST_CHARS}}} ) "
  | (?<![\w-]) (?: requirepass | masterauth ) \s{{1,3}} (?!["']{{2}}) {_SENTENCE} {_LIKELY}
      {argument("setting")}
  | (?<![\w-]) AUTH \s (?: PLAIN | LOGIN | XOAUTH2 ) \s (?P<mail> [\w+/]{{8,}}={{0,2}} )
  | (?<![\w-]) [A-Za-z]{{1,4}}\d{{1,6}} \s LOGIN \s \S{{1,200}} \s {_SENTENCE} {_LIKELY}
      {argument("mailbox")}
  | (?: ^ | (?<=\|[ ]) | (?<=Z[ ]) | (?<=[ ][FP][ ]) ) \s{{0,20}}
      (?: --+> | >>> | C: ) \s PASS \s (?P<pass> \S+ ) \s* $
  | ^ \s{{0,20}} AUTH \s {_SENTENCE} (?P<auth> (?=\S{{0,99}}\d) [^\s"']{{6,}} ) \s* $
  | (?<![\w-]) username \s \S{{1,64}} (?: \s privilege \s \d{{1,2}} )? \s (?:password|secret) \s
      (?: \d \s )? {_SENTENCE} {_LIKELY} {argument("router", BARE_WORD)}
  | (?<![\w-]) snmp-server \s community \s {argument("community", BARE_WORD)}
  | ^ (?! [\w.*-]{{1,253}} \. {_FILE_SUFFIX} : )
      (?: [\w.*-]{{1,253}} : (?:5432|5433|6432|\*) | \* : \d{{1,5}} )
      : [\w.*-]{{1,64}} : [\w.*-]{{1,64}} : (?P<pgpass> \S{{1,256}} ) $
"""
PROTOCOL_SECRET_NEEDLES = (
    "auth", "login", "pass", "username", "community", ":0000:", ":*:", "*:0",
)  # fmt: skip
PROTOCOL_SECRET_HINT = (
    r'"AUTH"|requirepass|masterauth|AUTH\s(?:\S{6}|PLAIN|LOGIN)|[A-Za-z]0+\sLOGIN\s|(?:>|C:)\sPASS\s'
    r"|username\s\S+\s(?:password|secret|privilege)\s|snmp-server|:0000:|:\*:|\*:0+:"
)
