"""Rules for a value that a sentence names."""

from __future__ import annotations

from dsmops.logs.rules.edits import key_edit
from dsmops.logs.rules.rule import Rule, words
from dsmops.logs.rules.values import MOST_CHARS, quoted

# A sentence names the value: `the password is ...`, `Incorrect API key provided: ...`.
SENTENCE = Rule(
    "key",
    needles=words("key token pass secret credential"),
    hint=(
        r"(?=[ckpstCKPST])(?i:key|token|pass(?:word|phrase|wort)|secret|credential)s?(?:\s\w{1,9})?\s?[:=]?\s?"
        r"""["'`(]{0,2}[\w~+/-]{12}"""
    ),
    source=r"""
    (?: (?<![A-Za-z0-9]) | (?<=[a-z])(?=[A-Z]) ) (?i: auth[ _-]?id | (?:api|access|secret|private)[ _-]?key | token | pass(?:word|phrase|wort) | secret | credential ) s?
    (?= [\s:="'`(] ) (?: \s (?:is|was|provided|used|given|of) )? \s? [:=]? \s? ["'`(]{0,2}
    (?P<bare> (?= [\w~+/.-]{0,99}\d ) (?: (?= [\w~+/.-]{0,99}[a-z] ) (?= [\w~+/.-]{0,99}[A-Z] ) (?! \w{1,40}(?:\.|::)[a-z]\w{1,40}(?:\.|::) ) [\w~+/-]{12,}
      | [0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12} (?![\w-]) | (?= [A-Za-z0-9]{0,99}[A-Za-z] ) [A-Za-z0-9]{24,} (?![\w-]) ) )
""",
    edit=key_edit,
)

_SAID = r"""[^\s"'`,;()<>]"""
# A version, or the name of a protocol, an algorithm or a program with its number.
_NO_PASSWORD = r"""(?: v?\d{1,5} (?:\.\d{1,5}){1,3} (?: [-+][\w.+-]{1,40} )? (?= [.,;)]? (?: \s | $ ) )
      | (?i: oauth|saml|d?tls|ssl|ssh|sha|md(?=[45])|hmac|rsa|aes|ed(?=25519|448)|ecdsa|secp|pkcs|x(?=509)|ntlm|krb|kerberos
          |utf|base(?=32|64)|ipv|http|chrome|firefox|safari|edge|python|windows ) [-_/]? (?i:v)? \d )"""
PASSWORD_IN_SENTENCE = Rule(
    "key",
    needles=("pass", "key", "in as", "on as"),
    hint=(
        r"(?i:pass(?:word|phrase|code|wort)|passwd)\s(?:for\s|(?i:is|was):?\s)"
        r"|(?i:unseal|recovery)\s(?i:key)\s"
        r"|(?i:[io]n as)\s\S{1,256}\s(?i:with|using)\s|(?i:with|using)\s(?i:the\s)?(?i:pass(?:word|phrase))\s"
    ),
    source=rf"""
    (?<![A-Za-z0-9]) (?i: pass(?:word|phrase|code|wort) | passwd )
    (?: \s for [^.\n]{{1,80}}? )?? \s (?i:is|was) :? \s
    (?: {quoted("said")} | ` (?P<said_tick> [^`\n]{{1,{MOST_CHARS}}} ) `
      | (?P<bare> (?={_SAID}{{0,99}}\d) (?={_SAID}{{0,99}}[A-Za-z]) {_SAID}{{6,128}}?
          (?= [.,;)]? (?: \s | \\*["'] | $ ) ) ) )
  | (?<![A-Za-z]) (?i: (?:log|sign)(?:ged|ging|ed|ing|s)? [ -]? (?:in|on)[ ]as ) \s \S{{1,64}} \s
      (?i: with | using ) \s (?! (?i: password|passphrase ) \s | {_NO_PASSWORD} ) (?P<used> (?={_SAID}{{0,99}} (?: [A-Za-z]\d{{1,9}}[A-Za-z] | \d[A-Za-z]{{1,9}}\d ) )
        {_SAID}{{6,128}}? (?= [.,;)]? (?: \s | \\*["'] | $ ) ) )
  | (?<![A-Za-z]) (?i: with | using ) \s (?: (?i:the) \s )? (?i: password | passphrase ) \s
      (?P<with> (?={_SAID}{{0,99}}\d) (?={_SAID}{{0,99}}[A-Za-z]) {_SAID}{{6,128}}? (?= [.,;)]? (?: \s | \\*["'] | $ ) ) )
  | (?i: unseal | recovery ) \s (?i: key ) \s \d{{1,2}} : \s
      (?P<share> [A-Za-z0-9+/]{{40,90}}={{0,2}} )
""",
    edit=key_edit,
)
