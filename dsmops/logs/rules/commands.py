"""Rules for secrets that statements of SQL, command lines and protocols hold.

Sources: the manuals of the named programs; RFC 1939 and 959 (`PASS`), 3501 (`LOGIN`), and 4954
(`AUTH`).
"""

from __future__ import annotations

from dsmops.logs.rules.edits import command_edit, key_edit, setting_edit
from dsmops.logs.rules.rule import Rule, words
from dsmops.logs.rules.values import BARE_WORD, MOST_CHARS, argument, quoted

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
SQL_PASSWORD = Rule(
    "key",
    needles=("password", "identified"),
    hint=r"(?i:identified|password)\b",
    source=rf"""
    (?<!\w) (?i: identified \s{{1,3}} (?: with \s{{1,3}} \S{{1,64}} \s{{1,3}} )? (?: by | as )
          (?: \s{{1,3}} (?:password|values) )?
      | (?: with | encrypted | login | set | , ) \s{{1,3}} password \s{{0,3}} =?
      | set \s{{1,3}} password \s [^=;\n]{{0,200}} = ) \s{{0,3}} (?i: N(?=') | password\s?\( )?
    {_SQL_STRING}
""",
    edit=key_edit,
)

# `curl -u user:password`.
USER_OPTION = Rule(
    "key",
    needles=("-u", "user"),
    hint=r"-[uU]\s?\S{1,260}:|user[\s=]",
    source=r"""
    (?<![\w-]) (?: -u \s? | curl \s [^|;&\n]{0,400}? (?<=\s) -U \s? | --(?:proxy-)?user [\s=] ) (?:
        \\*" (?P<double> (?: (?!<(?:key|ip|email|user):) [^\s":] ){1,64} : [^"\\\n]++ ) \\*"
      | \\*' (?P<single> (?: (?!<(?:key|ip|email|user):) [^\s':] ){1,64} : [^'\\\n]++ ) \\*'
      | ["']? (?P<user> (?: (?!<(?:key|ip|email|user):) [^\s"':] ){1,64} : [^\s"']{1,256} ) )
""",
    edit=key_edit,
)

# `machine host login user password secret` of netrc.
NETRC = Rule(
    "key",
    needles=("password",),
    hint=r"password\s",
    source=r"\b login \s{1,3} \S{1,100} \s{1,3} password \s{1,3} (?P<bare> \S+ )",
    edit=key_edit,
)

# What some commands take as a secret, and what GitHub Actions hides from now on.
COMMAND = Rule(
    "key",
    needles=words(
        "::add-mask securestring password identified login sshpass mysql mariadb http redis-cli"
        " htpasswd openssl pass: curl _auth httponly"
    ),
    hint=(
        r"::add-mask|(?i:securestring)|(?i:password|by)\s{1,3}(?:=\s)?[\"']|login\s|sshpass|mysql|mariadb"
        r"|https?\s|redis-cli\s|htpasswd\s|openssl\s|pass:|curl\s|_auth|httpOnly"
    ),
    source=rf"""
    ::add-mask:: (?P<mask> \S+ )
  | (?i:convertto-securestring) \s{{1,3}} (?:-\w{{1,9}}\s)? ["'] (?P<secure> [^"']+ )
  | (?i: (?<!\w) password | identified \s{{1,3}} by ) \s{{1,3}} (?:=\s)? ' (?P<sql> [^'\s]{{1,200}} ) '
  | (?<!\w) password \s{{1,3}} " (?P<groovy> [^"\s]{{1,200}} ) "
  | (?<![\w-]) (?: (?:docker|podman|helm|skopeo|nerdctl|az)\s(?:registry\s)?login | sshpass | mysql(?:dump|admin)? | mariadb )
    (?=\s) [^|;&]{{0,200}}? \s -p \s? {argument("option")}
  | (?<!\w) https? \s [^|;&]{{0,200}}? -a \s? ["']? (?P<user> [^\s"':]{{1,64}} : [^\s"']{{1,256}} )
  | (?<![\w-]) (?: redis-cli \s [^|;&]{{0,200}}? -a | htpasswd \s -\w{{0,6}}b\w{{0,6}} \s \S{{1,200}} \s \S{{1,64}}
      | openssl \s [^|;&]{{0,200}}? (?:-k|-K) ) \s{{1,3}} {argument("argument", BARE_WORD)}
  | (?<![\w-]) pass: (?P<pass> (?=\S{{0,199}}\d) [^\s"']{{6,}} )
  | (?<![\w-]) curl \s [^|;&]{{0,400}}? (?: -b | --cookie ) [\s=] ["']? (?P<cookie> [^\s"'=]{{1,80}} = [^"']+? ) (?= ["'] | \s-|\shttps?: | $ )
  | (?<![\w]) _auth \s? [=:] \s? ["']? (?P<npm> [\w+/]{{8,}}={{0,2}} )
  | "value" \s? : \s? " (?P<har> [^"]+ ) " (?= [^{{}}]{{0,300}} "httpOnly" )
""",
    edit=command_edit,
)

_STRING_BEFORE = r"""(?: (?: \\*"[^"\n]{0,200}" | \\*'[^'\n]{0,200}' ) \s? , \s? )"""
# A user's name has no blank. What begins so is a text for people, not a password.
_USER_BEFORE = r"""(?: (?: \\*"[^"\s]{0,200}" | \\*'[^'\s]{0,200}' ) \s? , \s?
    (?! \\*["'] (?:Please|Enter|Welcome|Invalid|Error|Failed|Sign|Log|Your|Wrong|Unable)\s ) )"""
COMMAND_KEY = Rule(
    "key",
    needles=(
        " -p",
        " -w ",
        "smbclient",
        "rabbitmqctl",
        "alias",
        "login",
        "unseal",
        "credential",
        "auth",
        "entry(",
        "log_in(",
        "signin(",
        "sign_in(",
    ),
    hint=(
        r"(?i:psexec)|mongo|cqlsh|evil-winrm|crackmapexec|nxc\s|sqlcmd|bcp\s|mosquitto_|ipmitool|unzip"
        r"|ldap|plink|pscp|psftp|smbclient|(?:Credentials?|[Aa]uth|Authentication|DirectoryEntry|(?i:(?:log|sign)_?in|authenticate))\("
        r"|auth\s?=\s?\(|rabbitmqctl|wandb login|mc alias|operator unseal"
    ),
    source=rf"""
    (?<![\w-]) (?: (?i:psexec(?:64)?(?:\.exe)?) | mongo(?:sh|dump|restore|export|import)? | cqlsh
        | evil-winrm | crackmapexec | nxc )
      (?=\s) [^|;&\n]{{0,200}}? [ ]-p[ ]{{1,3}} {argument("lower")}
  | (?<![\w-]) (?: sqlcmd | bcp | mosquitto_(?:pub|sub) | ipmitool | unzip )
      (?=\s) [^|;&\n]{{0,200}}? [ ]-P[ ]{{1,3}} {argument("upper")}
  | (?<![\w-]) (?: ldap(?:search|modify|add|delete|passwd|whoami) | (?:plink|pscp|psftp)(?:\.exe)? )
      (?=\s) [^|;&\n]{{0,200}}? [ ]-(?:w|pw)[ ]{{1,3}} {argument("other")}
  | (?<![\w-]) smbclient[ ] [^|;&\n]{{0,200}}? -U \s? (?:
        \\*" [^\s"%]{{1,64}} % (?P<user_double> [^"\\\n]{{1,{MOST_CHARS}}} ) \\*"
      | \\*' [^\s'%]{{1,64}} % (?P<user_single> [^'\\\n]{{1,{MOST_CHARS}}} ) \\*'
      | (?:\\*["'])? [^\s"'%]{{1,64}} % {argument("share", BARE_WORD)} )
  | (?<![\w-]) rabbitmqctl[ ] (?:[^|;&\n]{{0,60}}?\s)? (?: add_user | change_password )
      \s \S{{1,64}} \s {argument("added", BARE_WORD)}
  | (?: (?: (?: Credentials? | (?:Basic|Digest|Ntlm)Auth | basic_auth | PasswordAuthentication ) \( \s?
        | (?<!\w) (?:http_|proxy_|basic_)? auth \s? = \s? \( \s?
        | DirectoryEntry \( \s? {_STRING_BEFORE} ) {_STRING_BEFORE}
        | (?<!\w) (?i: (?:log|sign)_?in | authenticate ) \( \s? {_USER_BEFORE} ) {quoted("passed")}
      (?= \s? [,).] )
  | (?<![\w-]) wandb[ ]login[ ] (?:--relogin[ ])? (?P<wandb> [\w-]{{40,100}} )
  | (?<![\w-]) mc[ ]alias[ ]set[ ] \S{{1,64}} \s \S{{1,200}} \s
      (?P<alias> \S{{1,200}} \s \S{{1,200}} )
  | (?<![\w-]) operator[ ]unseal[ ]{{1,3}} (?P<unseal> [\w+/]{{32,100}}={{0,2}} )
""",
    edit=command_edit,
)

_TAKES_STDIN = r"""
    (?: --password-stdin | --with-token | --stdin | --passphrase-fd | chpasswd
      | sudo\s(?:-\w\s(?:[\w.-]{1,40}\s)??){0,3}-S )
"""
# Several words without quotes.
_WORDS = (
    r"""(?P<piped_words> (?! <key: | - ) [^\s|"'`<>]{1,200} (?: [ ] [^\s|"'`<>]{1,200} ){1,20} )"""
)
COMMAND_SECRET = Rule(
    "key",
    needles=(
        "echo",
        "printf",
        "<<<",
        "secret set",
        "put-parameter",
        " login",
        "twine ",
        " config ",
        "kv put",
        "storepass",
        "keypass",
        "wpa_pass",
        "wifi ",
        "ssh-keygen",
        "zip ",
        "0z",
        "##vso",
    ),
    hint=(
        r"--(?:password-)?stdin|--with-token|--passphrase-fd|chpasswd|sudo\s|<<<"
        r"|secret set |put-parameter|(?:vault|cargo) login|twine upload"
        r"|(?:composer|poetry) config|kv put|(?:store|key)pass\s|wpa_passphrase|wifi connect|ssh-keygen"
        r"|zip |0z[az]? |##vso"
    ),
    source=rf"""
    (?<![\w-]) (?: echo | printf ) \s (?: -\w\s | ["']?%s(?:\\+n)?["']?\s )?
      (?: {argument("piped")} | (?! [^|\n]{{0,200}} \| [^|\n]{{0,20}} git\s ) {_WORDS} ) \s? \| (?!\|)
      (?= (?: [^|\n]{{1,200}} \| (?!\|) ){{0,3}}? [^|\n]{{0,200}}? {_TAKES_STDIN} )
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
""",
    edit=command_edit,
)

# `main.rs:5432:...` is a place in a file, not a host and its port.
_FILE_SUFFIX = (
    "(?:rs|py|pyx|c|cc|cpp|cxx|h|hpp|cu|cuh|js|jsx|ts|tsx|go|java|kt|rb|php|sh|sql|log|txt|md|toml"
    "|ya?ml|json|xml|html?|cfg|conf|ini)"
)
# With other ports than those of PostgreSQL; `pl` and `mm` are countries too.
_ANY_SUFFIX = (
    r"(?: [\w.-]{1,253} \. (?:scala|swift|kts|cs|vue|lua|ex|exs|zig|m|dart|proto|service|csv)"
    r" | [\w-]{1,63} \. (?:pl|mm) )"
)
# Of a password file of PostgreSQL, in which `:` is escaped.
_PG_FIELD = r"(?: [\w.*-] | \\[:\\] ){1,64}"
PROTOCOL_SECRET = Rule(
    "key",
    needles=(
        "auth",
        "login",
        "pass",
        "username",
        "community",
        ":0000:",
        ":00000:",
        ":*:",
        "*:0",
    ),
    hint=(
        r'"AUTH"|requirepass|masterauth|AUTH\s(?:\S{6}|PLAIN|LOGIN)|[A-Za-z]0+\sLOGIN\s|(?:>|C:)\sPASS\s'
        r"|username\s\S+\s(?:password|secret|privilege)\s|snmp-server|:0{4,5}:|:\*:|\*:0+:"
    ),
    source=rf"""
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
  | ^ (?:\#[ ]?)? (?! [\w.*-]{{1,253}} \. {_FILE_SUFFIX} : )
      (?: [\w.*-]{{1,253}} : (?:5432|5433|6432|\*) | \* : \d{{1,5}}
        | (?! {_ANY_SUFFIX} : ) (?: localhost | (?:[\w-]{{1,63}}\.){{1,8}}[\w-]{{1,63}} ) : \d{{4,5}}
          (?= : {_PG_FIELD} : (?! \d{{1,64}} : ) {_PG_FIELD} : (?=\S{{0,99}}\d) (?=\S{{0,99}}[A-Za-z]) \S{{6}} ) )
      : {_PG_FIELD} : {_PG_FIELD} : (?P<pgpass> \S{{1,256}} ) $
""",
    edit=setting_edit,
)
