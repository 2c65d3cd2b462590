"""Rules for what belongs to people: mail addresses, home folders, network addresses."""

from __future__ import annotations

import ipaddress
import re

from dsmops.logs.disguise import unveil
from dsmops.logs.rules.edits import PSEUDONYM
from dsmops.logs.rules.rule import Edit, Pseudonym, Rule

# Names of voices and checkpoints hold `@240.safetensors`; `git@host` is not a person.
EMAIL = Rule(
    "email",
    needles=("@", "%00"),
    hint=r"@(?!0{1,6}\.safetensors(?![\w.-]))|%00",
    source=r"""
    (?<![\w.%+-]) (?!git@) [\w.%+-]{1,64} (?:@|%40) (?: [A-Za-z0-9-]{1,63} \. ){1,8}
    (?! (?:safetensors|wav|mp3|flac|ogg|opus|json|bin|gguf|onnx|toml|txt|log|gz|zst) (?!\w) ) [A-Za-z]{2,24} (?![\w-])
""",
    edit=lambda m, p: Edit(*m.span(), p("email", m[0].replace("%40", "@").lower())),
)

HOME = Rule(
    "home",
    needles=("home", "users"),
    hint=r"home[/%]|(?i:users)[/\\%]",
    source=rf"""
    (?: (?:/|%2[Ff]) (?:home|Users) (?:/{{1,3}}|%2[Ff]) | (?:\\{{1,4}}|%5[Cc]) (?i:users) (?:\\{{1,4}}|%5[Cc]) )
    (?P<user> (?!{PSEUDONYM}) [^\s/\\"'`<>:,;()\[\]{{}}|*?&=$%]+ )
""",
    edit=lambda m, p: Edit(*m.span("user"), p("user", unveil(m["user"]))),
)

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_VERSION_WORD = re.compile(
    r"(?:\bv(?:er(?:sion)?)?|version|release|build|cuda|cudnn|cublas|nccl|cufft|curand|cusolver|cusparse|tensorrt|torch|python|driver)"
    r"[\"']?\s{0,3}[:=(]?\s{0,3}[\"']?$",
    re.IGNORECASE,
)
_OF_SOMEBODY = tuple(
    ipaddress.ip_network(net)
    for net in ("2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96")
)


def _is_nobodys(address: str) -> bool:
    """Return whether an IPv4 address is 0.0.0.0, loopback or a netmask."""
    return address.split(".", 1)[0] in ("0", "127", "255")


def _ipv4(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value = match["address"]
    if _is_nobodys(value) or _VERSION_WORD.search(
        match.string, max(0, match.start() - 40), match.start()
    ):
        return None
    return Edit(*match.span("address"), pseudonym("ip", value))


def _ipv4_in_host(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value, end = match["address"].replace("-", "."), match.end("address")
    if match.string.startswith(".in-addr.arpa", end):
        value = ".".join(reversed(value.split(".")))
    if match["address"].startswith(("127-0-0-1", "0-0-0-0")) or _is_nobodys(value):
        return None
    return Edit(*match.span("address"), pseudonym("ip", value))


def _hex_in_host(match: re.Match[str], pseudonym: Pseudonym) -> Edit:
    address = str(ipaddress.IPv4Address(int(match["address"], 16)))
    return Edit(*match.span("address"), pseudonym("ip", address))


def _ipv6(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value = match["address"]
    shown = value if value.endswith("::") else value.removesuffix(":")
    return _ipv6_edit(match.start(), len(shown), shown, pseudonym)


def _ipv6_reversed(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    digits = "".join(reversed(match["address"].replace(".", "")))
    address = ":".join(digits[place : place + 4] for place in range(0, 32, 4))
    return _ipv6_edit(match.start(), len(match["address"]) - 1, address, pseudonym)


def _ipv6_edit(begin: int, length: int, shown: str, pseudonym: Pseudonym) -> Edit | None:
    try:
        address = ipaddress.IPv6Address(shown)
    except ValueError:
        return None
    mapped = address.ipv4_mapped
    nobodys = (
        _is_nobodys(str(mapped))
        if mapped
        else not any(address in network for network in _OF_SOMEBODY)
    )
    return None if nobodys else Edit(begin, begin + length, pseudonym("ip", str(mapped or address)))


IPV6_REVERSED = Rule(
    "ip",
    needles=("ip0.arpa",),
    hint=r"(?i:ip0\.arpa)",
    source=r"(?<![\w.]) (?P<address> (?: [0-9a-fA-F]\. ){32} ) (?=ip6\.arpa)",
    edit=_ipv6_reversed,
)

# After a word and a slash it is a version (`Chrome/120.0.0.0`), unless a port follows.
IPV4 = Rule(
    "ip",
    needles=("0.0",),
    hint=r"0\.0{1,3}\.0{1,3}\.0",
    source=rf"""
    (?<![\w.]) (?<!==) (?: (?<![A-Za-z]/) | (?= [\d.]{{7,15}}:\d ) )
    (?:::ffff:)? (?P<address> (?:{_OCTET}\.){{3}}{_OCTET} ) (?! \.?\w | -(?:py|cp)\d )
""",
    edit=_ipv4,
)

_TOP_LEVEL = r"(?: \.[a-z][\w-]{0,62} ){1,8} (?![\w-])"
# Names that networks give to the addresses of their customers:
# `ec2-203-0-113-9.compute.amazonaws.com`, `203.0.113.9.static.example.net`, and the reverse
# `9.113.0.203.in-addr.arpa`.
IPV4_IN_HOST = Rule(
    "ip",
    needles=("0.0", "0-0"),
    hint=r"0[-.]0{1,3}[-.]0{1,3}[-.]0",
    source=rf"""
    (?<![\w-]) (?P<label> (?: [A-Za-z][\w-]{{0,60}}? [-.] ){{0,2}} ) (?P<address>
      (?: {_OCTET}-){{3}} {_OCTET} (?! \d ) (?= [\w-]{{0,60}} {_TOP_LEVEL} )
      | (?<=ip-) (?: {_OCTET}-){{3}} {_OCTET} (?![\w-]) | (?<=ec2-) (?: {_OCTET}-){{3}} {_OCTET} (?![\w-])
      | (?: {_OCTET}\.){{3}} {_OCTET} (?= (?:\.[a-z][\w-]{{0,62}}){{2,8}} (?![\w-]) )
      | (?: {_OCTET}\.){{3}} {_OCTET} (?= \.in-addr\.arpa ) )
""",
    edit=_ipv4_in_host,
)

IPV6 = Rule(
    "ip",
    needles=(":",),
    hint=r"(?:(?<![\w:.])(?:[0Ff][0A-Fa-f]{3}|00:ff0b)|::[Ff]{4}):",
    source=(
        r"(?<![\w:.]) (?P<address> (?: [23fF][0-9a-fA-F]{3} | 64:ff9b | ::(?i:ffff) ) :"
        r" [0-9a-fA-F:]{1,34} ) (?!\.?\w)"
    ),
    edit=_ipv6,
)

HEX_IN_HOST = Rule(
    "ip",
    needles=(".dip",),
    hint=r"p[0a-fA-F]{8}\.dip",
    source=r"(?<![\w-]) p (?P<address> [0-9a-fA-F]{8} ) (?=\.dip0?\.)",
    edit=_hex_in_host,
)
