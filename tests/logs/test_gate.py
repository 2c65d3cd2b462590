"""Each rule of the gate is needed: without it, what it finds shows or goes through.

`redact` and the gate of `publish-logs` have the same rules. A witness is a line of which one rule
alone finds a part.
"""

import re

import pytest

from dsmops.logs import redact, redaction, scan
from dsmops.logs.redaction import opened_block
from dsmops.logs.rules import RULES
from dsmops.logs.rules.rule import Rule
from tests.logs.test_redaction import KEY

S = "Zq7vR2mXk9TbL4wPsN8d"
REVERSED = ".".join("1" + "0" * 23 + "8bd01002") + ".ip6.arpa"
WITNESSES: tuple[tuple[str, str], ...] = (
    ('{"type": "Text", "text": "hello there"}', "hello there"),
    ("text: hello there", "hello there"),
    ('Binary("hello there")', "hello there"),
    ('handling py asr streaming post query b"RIFFhello"', "RIFFhello"),
    ("-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADAN\\n-----END PRIVATE KEY-----", "MIIEvQIBADAN"),
    (f"aws {S}{S[::-1]}", S),
    (f"Set-Cookie: s={S}; Path=/", S),
    (f'Authorization: Digest username="bob", response="{S}"', S),
    (f"sent Bearer {S} upstream", S),
    (f'{{"value": "{S}", "name": "api_key"}}', S),
    ("CREATE USER bob IDENTIFIED BY 'correct horse battery'", "battery"),
    ("docker run -e 'DB_PASSWORD=correct horse battery' x", "battery"),
    ("DB_PASSWORD=correct horse battery", "battery"),
    ("Config(password=correct horse battery, port=80)", "battery"),
    (f'auth_id: Some("{S}")', S),
    (f'api_key = "old-one-1" -> "{S}"', S),
    (f"INSERT INTO users (name, api_key) VALUES ('bob', '{S}')", S),
    (f"GET /x?sig={S}&x=1", S),
    (f"mysql://root:{S}@db/x", S),
    (f"curl -u bob:{S} http://host", S),
    ("machine host login bob password hunter2x", "hunter2x"),
    (f"| api_key | {S} |", S),
    (f"using token {S}", S),
    (f"::add-mask::{S}", S),
    ("the password is 'hunter2x'", "hunter2x"),
    ("psexec host -u bob -p hunter2x cmd", "hunter2x"),
    ("+ twine upload -u bob -p hunter2x x", "hunter2x"),
    ("requirepass hunter2x", "hunter2x"),
    (f"POST https://host/webhook/{S}/{S[::-1]} 200", S),
    (f"bob:$6$Zq7vR2mX${S * 4}:19000", S),
    (f'{{"auths": {{"r.io": {{"auth": "{S}=="}}}}}}', S),
    ("client sent eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.SflKxwRJSMeKKF2QT4", "eyJzdWIi"),
    ("used AK" + "IAQ7XK2MW9ZQ7XK2MW", "Q7XK2MW9ZQ7XK2MW"),
    ("failed with glpat-" + S, S),
    ("failed with 1000." + "0a1b2c3d" * 4, "0a1b2c3d"),
    ("failed with acme_live_" + S, S),
    (f"acme_key={S}", S),
    ("bob@example.org joined", "bob@example.org"),
    ('loading "/home/bob42"', "bob42"),
    (f"name {REVERSED}", REVERSED[:20]),
    ("from [203.0.113.9]", "203.0.113.9"),
    ("on ip-203-0-113-9.eu-west-3.compute.internal", "203-0-113-9"),
    ("addr=2001:db8::1", "2001:db8::1"),
    ("pcb007109.dip0.t-ipconnect.de", "cb007109"),
)
"""A line and a part of what is to go, for each rule in the order of `RULES`."""


def test_every_rule_has_a_witness() -> None:
    """A new rule brings one."""
    assert len(WITNESSES) == len(RULES)


@pytest.mark.parametrize("number", range(len(RULES)))
def test_without_a_rule_its_witness_shows(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all rules the secret is refused and removed; without one it stays in the text."""
    line, secret = WITNESSES[number]
    assert scan(line.encode())
    assert secret.encode() not in redact(line.encode(), KEY).data
    every = redaction._rules_of

    def others(shape: bytes) -> list[Rule]:
        return [rule for rule in every(shape) if rule is not RULES[number]]

    monkeypatch.setattr(redaction, "_rules_of", others)
    assert secret.encode() in redact(line.encode(), KEY).data


BLOCKS = {
    "key": "authorized_ids = [\n  'hunter2x',\n]",
    "value": "- name: HF_TOKEN\n  value: hunter2x",
    "scalar": "db:\n  password: >-\n    correct\n    hunter2x horse\nport: 1",
    "until": "api_key = <<EOF\ncorrect\nhunter2x horse\nEOF",
    "line": "args:\n  - --api-key\n  - hunter2x",
    "part": 'form-data; name="password"\n\nhunter2x\n--b--',
    "columns": "host,password,port\ndb,hunter2x,80",
    "text": 'texts: [\n  "hunter2x",\n]',
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_without_a_kind_of_block_its_witness_shows(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a line begins and the next one holds is refused and removed by that kind alone."""
    text = BLOCKS[kind].encode()
    assert scan(text)
    assert b"hunter2x" not in redact(text, KEY).data

    def others(line: str) -> str | None:
        found = opened_block(line)
        return None if found and re.match(kind, found) else found

    monkeypatch.setattr(redaction, "opened_block", others)
    assert b"hunter2x" in redact(text, KEY).data
