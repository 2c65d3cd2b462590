"""Nothing planted stays, next to nothing clean is touched, one caller stays one caller, and keys
are made with care.
"""

import json
import os
import random
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmops.errors import FileAccessError, InputError
from dsmops.logs import Clock, Formatter, Redactor, Style, load_or_create_key, redact, scan
from dsmops.logs.redaction import _edited, _edits, shape_of
from dsmops.logs.rules import RULES
from dsmops.logs.rules.multiline import opened_block
from dsmops.logs.rules.tokens import TOKEN_SHAPES, TokenShape
from tests.logs.secret_lines import PLANTS, SECRET_NAMES, aws_id, example_token, ipv4, jwt
from tests.logs.server_logs import DIALECTS, START, Event, server_log

KEY = b"a key for tests only"
EACH = 4 if os.environ.get("DSMOPS_TEST_LONG", "") in ("", "0") else 100
"""Variants of each kind of secret, in each dialect and both styles."""


def redacted(text: str, key: bytes = KEY) -> str:
    return redact(text.encode(), key).data.decode()


@pytest.mark.slow
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_planted_secret_is_caught(dialect: str) -> None:
    """In every dialect and both output styles no part of a planted secret is left, its rule has
    hit, and a scan finds nothing more.
    """
    rng = random.Random(20251115)
    for plant in PLANTS * EACH:
        planted = plant(rng)
        line = DIALECTS[dialect](
            Event(START, "INFO", "moshi_server", "src/main.rs", 12, planted.message)
        ).encode()
        for jsonl in (False, True):
            formatter = Formatter(Style(Clock(), jsonl=jsonl), redactor=Redactor(KEY))
            out = (formatter.feed(line + b"\n") + formatter.flush()).decode()
            assert not [secret for secret in planted.secrets if secret in out], planted.message
            assert formatter.redactions[planted.rule], planted.message
            assert scan(out.encode()) == {}, out


@pytest.mark.parametrize("depth", [1, 2])
def test_every_planted_secret_is_caught_in_json(depth: int) -> None:
    """Also in a string of JSON, and in JSON within JSON."""
    rng = random.Random(5)
    for plant in PLANTS * (EACH // 4):
        planted = plant(rng)
        shown, secrets = planted.message, [*planted.secrets]
        for _ in range(depth):
            shown = json.dumps({"log": shown}, ensure_ascii=False)
            secrets = [json.dumps(secret, ensure_ascii=False)[1:-1] for secret in secrets]
        assert not [secret for secret in secrets if secret in redacted(shown)], shown


DRAWN = "Zq7vR2mXk9TbL4wPsN8d"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{{\\"acme_key\\": \\"{}\\"}}', DRAWN),
        ('{{\\\\\\"acmeKey\\\\\\": \\\\\\"{}\\\\\\"}}', DRAWN),
        ("rejected acme_key={}: 401", DRAWN),
        ("acme_key={}:x", DRAWN),
        ("acme_key={} end", DRAWN * 150),
        ("door-key-of_the_weatherly_key={} end", DRAWN),
        ("acme_key={} end", f"{DRAWN}=="),
        ("sent {} end", "acme_live_" + DRAWN * 150),
        ("sent {} end", "acme_" + DRAWN * 150),
        ("sent hash {} end", f"$6$saltsalt${DRAWN * 150}"),
        ("sent hash {} end", f"$krb5asrep$23$bob:{DRAWN * 500}"),
        ("POST https://host/hooks/{} end", DRAWN * 150),
        ("hash {} end", "$P$B12345678" + "aB3./" * 5),
        ("hash {} end", "$H$912345678" + "aB3./" * 5),
        ("hash {} end", "$S$D12345678" + "aB3./" * 9),
        ('psexec host -p "{}" cmd', "correct horse battery"),
        ("nxc smb host -p '{}' -x", "correct horse battery"),
        ('\\"mosquitto_pub -P \\"{}\\" -t x\\"', "correct horse"),
        ("smbclient -U 'bob%{}' //host/share", "correct horse"),
        ('rabbitmqctl add_user bob "{}"', "correct horse"),
        ("sshpass -p '{}' ssh host", "correct horse"),
        ('redis-cli -a "{}" ping', "correct horse"),
        ('HTTPBasicAuth("bob", "{}")', "a b"),
        ('DirectoryEntry("LDAP://x", "bob", "{}")', "correct horse"),
        ('the password is "{}"', "a b"),
        ("the password is '{}', not another", "correct horse"),
        (f'password for {"漢" * 31} is "{{}}"', "hunter2x"),
        ("curl -u {} https://host", f"{'漢' * 60}:hunter2x"),
        ("curl -u '{}' https://host", "bob:correct horse"),
        ("https://{}@host/x", f"{'漢' * 220}:{'漢' * 20}"),
        ("the following password:\n\n  {}\nis new", "hunter2x"),
        (f"the following password {'漢' * 55}:\n{{}}", "hunter2x"),
    ],
)
def test_a_value_goes_whole_and_nothing_else(text: str, value: str) -> None:
    """Escaped, before a sign, of any length, with blanks in its quotes, after other letters."""
    assert re.sub("<key:[0-9a-f]{8}>", "<key>", redacted(text.format(value))) == text.format(
        "<key>"
    )


def test_an_address_that_is_a_secret_may_hold_a_password() -> None:
    """Both go."""
    for host in ("host/hooks", "hooks.example.org", "hc-ping.com"):
        shown = redacted(f"POST https://bob:hunter2x@{host}/{DRAWN}")
        assert re.fullmatch(rf"POST https://<key:\w{{8}}>@{host}/<key:\w{{8}}>", shown)


@pytest.mark.slow
def test_clean_lines_are_left_alone(shared_data: Path) -> None:
    """Of the real log's lines without a key and of 8,000 generated ones fewer than one in a
    thousand is touched.
    """
    real = (
        (shared_data / "logs" / "log.config-stt-en_fr-lowram-sm75.2025-11-15")
        .read_text()
        .splitlines()
    )
    lines = [line for line in real if "auth_id" not in line] + list(
        server_log(random.Random(8), 8000, steps=0.3)
    )
    touched = [line for line in lines if redacted(line) != line]
    assert len(touched) * 1000 < len(lines)
    assert touched == []


ROOTS_HOME = "/root"
"""A home that names no person."""
DIGEST = "0a1b2c3d4e5f6071" * 2


@pytest.mark.parametrize(
    "text",
    [
        "listening on http://0.0.0.0:8080 and [::]:8080, probe 127.0.0.1:9 and ::1, mask "
        "255.255.255.0",
        "cudnn 9.1.0.70 nvidia-cublas-cu12==12.4.5.8 torch-2.7.1.2-cp311 Chrome/120.0.0.0 "
        "version=1.2.3.4 v10.2.3.4",
        "moshi_server::face::add feed::beef c10::cuda::CUDAError 08:39:03 aa:bb:cc:dd:ee:ff",
        'git_hash: "3f2a9bc4d5e6f7081920a1b2c3d4e5f60718293a" sha256 ' + "ab12" * 16,
        "sampled text token text_token=17 num_tokens=5 tokens=[1, 2] eos_token=</s> token=42 "
        "max_tokens: 7",
        "auth_id: None, token: null, password=***, secret=<redacted>, key: ${API_KEY}, cookie: "
        "none",
        "voices: expresso/p329_022.wav.1e68beda@240.safetensors from "
        "git@github.com:kyutai-labs/moshi",
        f"{ROOTS_HOME}/moshi/src/main.rs:12: text: 5, context=750, prompt: None, no tokens to "
        f"log, basic checks, bearer of news",
        "error: --token is required, --api-key must not be empty, no key named foo, KeyError: "
        "'text', text_pad_token: 3 (see --token)",
        "tls text: 5 Text(5) ::ffff:127.0.0.1 ::ffff:7f00:1 /api/users/list Basic "
        "authentication, risk_live_in, Some(token) {text: []}",
        "cache_key=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 primary key "
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301, sort_key=20251115T083903Z, sha256=" + "ab12" * 16,
        "gpg: using RSA key 9DC858229FC7DD38854AE2D88D81803C0EBFCD88, no key "
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301 in the map",
        "object_key=voices/expresso/ex03/p329_022 layer_key: transformer-layers-12-self_attn-in "
        "trace_id=4bf92f3577b34da6a3ce929d0e0e4736 request_id=req_011CSHoEeqs5C35K2UUqR7Fy",
        "the password is too short, password is required, 'password' is not set, hooks: 3",
        "https://host/webhooks/incoming-and-outgoing https://docs.example.org/hooks/use-effect",
        "$1 $2a $6 PATH=$HOME/bin:$PATH {SHA} {MD5} unit_test_transcribe_recordings_of_one_hour",
        "cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_128x2 core_panicking_panic_fmt",
        f"model_v1_{DIGEST} layer_v2_{DIGEST * 2} img-prod-{DIGEST} shard 12-{DIGEST * 2} "
        f"server_{DIGEST} web-staging-{DIGEST[:20]}",
        "Loading the following token types:\ntext_and_audio_1",
        "Please set the following password:\n\nas two words1 or more",
        "acme_key=a1b2c3d4e5f6a7b8::new acme_key=a1b2c3d4e5f6a7b8(x) acme_key=a1b2c3d4e5f6a7b8.py",
        "2025-11-15T08:39:16.338577Z step_idx=123456 143.38ms [2025-11-15 08:39:03.595 AM UTC "
        "(+0000)]",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    """Versions, module paths, hashes, counters, placeholders and unspecified addresses identify no
    person.
    """
    assert redacted(text) == text
    assert scan(text.encode()) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('auth_id: Some("public_token") }', 'auth_id: Some("<key:{0}>") }'),
        ("?auth_id=public_token&x=1", "?auth_id=<key:{0}>&x=1"),
        ('{"kyutai-api-key": "public_token"}', '{"kyutai-api-key": "<key:{0}>"}'),
        ("Authorization: Bearer public_token", "Authorization: Bearer <key:{0}>"),
        ("('authorization', 'Bearer public_token')", "('authorization', 'Bearer <key:{0}>')"),
        ("login --token public_token --x", "login --token <key:{0}> --x"),
        (
            "\x1b[3mauth_id\x1b[0m\x1b[2m=\x1b[0mpublic_token",
            "\x1b[3mauth_id\x1b[0m\x1b[2m=\x1b[0m<key:{0}>",
        ),
        ('auth_id: Some(String("public_token")), x', 'auth_id: Some(String("<key:{0}>")), x'),
        (
            '{"name": "auth_id", "value": "public_token"}',
            '{"name": "auth_id", "value": "<key:{0}>"}',
        ),
        ("next=%2Fapi%3Fauth_id%3Dpublic_token%26x", "next=%2Fapi%3Fauth_id%3D<key:{0}>%26x"),
    ],
)
def test_one_caller_is_one_pseudonym_wherever_the_key_stands(text: str, expected: str) -> None:
    """The same value gives the same pseudonym in a query, a header and a command, and only the
    value is replaced.
    """
    pseudonym = redacted("token=public_token").removeprefix("token=<key:").removesuffix(">")
    assert redacted(text) == expected.replace("{0}", pseudonym)


def test_one_address_is_one_pseudonym_however_written() -> None:
    """Upper case, zeros and IPv4 within IPv6 do not make another caller of the same address."""
    assert (
        redacted("203.0.113.9")
        == redacted("::ffff:203.0.113.9").removeprefix("::ffff:")
        == redacted("::ffff:cb00:7109")
    )
    assert redacted("2001:DB8:0::1") == redacted("2001:db8::1")
    assert redacted("Bob@Example.com") == redacted("bob@example.com")


def test_a_key_goes_from_every_place_of_its_line() -> None:
    """Announced once, it is known; what is too short to be one may be a word elsewhere."""
    twice = "token=Tr0ub4dor-and-3 was refused, not in list: Tr0ub4dor-and-3, 12"
    out = redact(twice.encode(), KEY)
    assert b"Tr0ub" not in out.data
    assert out.counts == {"key": 2}
    assert scan(out.data) == {}
    assert redacted("pwd=on at the door, on time").endswith("at the door, on time")


def test_the_key_decides_and_counts_tell_no_values() -> None:
    """Another key gives other pseudonyms; counts hold rule names and numbers."""
    text = 'auth_id: Some("public_token") from 203.0.113.9 and 203.0.113.10'
    ours, theirs = redact(text.encode(), KEY), redact(text.encode(), b"another key")
    assert ours.data != theirs.data
    assert ours.counts == theirs.counts == {"key": 1, "ip": 2}


def test_a_key_block_over_several_lines_goes_whole() -> None:
    """From BEGIN to END every line of a PEM block becomes `<pem>`, indented or behind a container's
    name, also beside other lines.
    """
    body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    begin, end = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
    block = [
        "key:",
        begin,
        f"  {body}",
        "Proc-Type: 4,ENCRYPTED",
        "hello there",
        f"stt-1  | {body}",
        f"{end} ok",
        body,
    ]
    assert redacted("\n".join(block)).split("\n") == [
        "key:",
        "<pem>",
        "  <pem>",
        "<pem>",
        "hello there",
        "stt-1  | <pem>",
        "<pem> ok",
        body,
    ]


def test_a_key_block_that_never_ends_does_not_swallow_the_log() -> None:
    """Lines that are not part of a key come through, and after 256 lines that might be the search
    is given up.
    """
    lines = ["-----BEGIN RSA PRIVATE KEY-----", *["word"] * 300, "a line"]
    out = redacted("\n".join(lines)).split("\n")
    assert out.count("<pem>") == 257
    assert out[-1] == "a line"


def test_key_blocks_are_found_in_formatted_logs_too() -> None:
    """A block that Python printed after an event is redacted in the friendly log and in JSON
    Lines.
    """
    raw = (
        DIALECTS["ansi"](
            Event(
                START,
                "ERROR",
                "moshi_server",
                "src/main.rs",
                1,
                "tls -----BEGIN RSA PRIVATE KEY-----",
            )
        )
        + "\n"
    )
    raw += "  MIIEpAIBAAKCAQEA7\n  c2VjcmV0\n-----END RSA PRIVATE KEY-----\n"
    for jsonl in (False, True):
        formatter = Formatter(Style(Clock(), jsonl=jsonl), redactor=Redactor(KEY))
        out = (formatter.feed(raw.encode()) + formatter.flush()).decode()
        assert "MIIE" not in out
        assert "c2VjcmV0" not in out


PRETTY = """\
query: Query {
    auth_id: Some(
        "public_token",
    ),
    format: "PcmMessagePack",
}
"authorized_ids": [
  "<key>",
  "public_token"
], "name"
text: [
stt-1  |     "hello",
  "world",
hello: "again",
no: item
  "later"
"""


def test_a_list_over_several_lines_loses_its_items() -> None:
    """What Rust's pretty Debug, JSON and Python spread over lines is replaced item by item, up to
    the first line that is not an item.
    """
    key = redacted("token=public_token").removeprefix("token=")
    assert redacted(PRETTY).split("\n") == [
        *(
            "query: Query {",
            "    auth_id: Some(",
            f'        "{key}",',
            "    ),",
            '    format: "PcmMessagePack",',
            "}",
        ),
        *(
            '"authorized_ids": [',
            f'  "{redacted("token=<key>").removeprefix("token=")}",',
            f'  "{key}"',
            '], "name"',
        ),
        *(
            "text: [",
            'stt-1  |     "<text>",',
            '  "<text>",',
            'hello: "<text>",',
            "no: item",
            '  "later"',
            "",
        ),
    ]


def test_a_password_below_its_announcement_is_replaced() -> None:
    """What stands alone some lines below, as Jenkins prints it at its first start."""
    value = "0a1b2c3d" * 4
    text = "Please use the following password to proceed:\n\n%s\n\nIt is kept at /x/secrets\n"
    assert redacted(text % value) == text % redacted(f"token={value}").removeprefix("token=")


def test_a_list_in_a_formatted_log_loses_its_items_each_time() -> None:
    """Also where the same lines come again and are known by heart, and in JSON Lines."""
    raw = (
        DIALECTS["ansi"](Event(START, "ERROR", "moshi_server", "src/main.rs", 1, "bad config"))
        + "\n"
    )
    raw += '  authorized_ids = [\n    "abc-1",\n    "abc-2",\n  ]\n'
    for jsonl in (False, True):
        formatter = Formatter(Style(Clock(), jsonl=jsonl), redactor=Redactor(KEY))
        out = (formatter.feed(raw.encode() * 3) + formatter.flush()).decode()
        assert "abc-" not in out
        assert formatter.redactions == {"key": 6}


def test_a_line_in_colour_keeps_its_colours() -> None:
    """Colours do not hide a value from the rules, and every byte around the value stays."""
    clean = "\x1b[3mstep_idx\x1b[0m\x1b[2m=\x1b[0m17\r\n"
    hidden = "\x1b[2mau\x1b[0mth_id\x1b[2m=\x1b[0m"
    key = redacted("auth_id=abcdef").removeprefix("auth_id=")
    assert redacted(f"{clean}{hidden}ab\x1b[3mcdef\r\n") == f"{clean}{hidden}{key}\r\n"
    assert scan(b"\x1b[3maddr\x1b[0m\x1b[2m=\x1b[0m203.0.113.9") == {"ip": 1}


SOUP = st.lists(
    st.sampled_from(
        [
            "auth_id",
            "token",
            "=",
            ": ",
            '"',
            "'",
            "\\",
            "Some(",
            ")",
            "[",
            "]",
            "<",
            ">",
            "text",
            "cookie",
            "Bearer ",
            "\n",
            "\r\n",
        ]
    )
    | st.sampled_from(
        [
            " ",
            ",",
            "&",
            "?",
            "@",
            "://",
            "/home/",
            "-----BEGIN PRIVATE KEY-----",
            "-----END PRIVATE KEY-----",
            "eyJabc.def.ghi",
        ]
    )
    | st.sampled_from(
        [
            "AKIAIOSFODNN7EXAMPLE",
            "10.1.2.3",
            "fd00::1:2",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "--password",
            "aws",
            "<text>",
        ]
    )
    | st.sampled_from(
        [
            " None",
            "None",
            "17",
            "text_token",
            "context_token",
            "@240.safetensors",
            ".com",
            "api_keys_id",
            "foo@",
            "::ffff:",
        ]
    )
    | st.sampled_from(
        [
            "{",
            "}",
            "(",
            "%3D",
            "%253D",
            "%26",
            "%2F",
            "home",
            "Users",
            "String(",
            "value",
            "Text(",
            "text: ",
            "Array [",
            "r#",
        ]
    )
    | st.sampled_from(
        [
            "\x1b[0m",
            "\x1b",
            "[3m",
            "::ffff:cb00:7109",
            "fe80::1%eth0",
            "peer/",
            ":80",
            "sk_live_",
            "hf_",
            "a" * 40,
        ]
    )
    | st.sampled_from(
        [
            "acme_key=",
            "_live_",
            "a7B3x9Qz2Lm5a7B3x9Qz2Lm5",
            "FFFFNRAL",
            "password for ",
            " is ",
            "漢" * 31,
            "following token ",
            "nxc -p ",
            "$6$",
            "://hooks/",
        ]
    )
    | st.sampled_from(SECRET_NAMES)
    | st.text(max_size=8),
    max_size=30,
).map("".join)


@pytest.mark.slow
@given(text=SOUP)
def test_redacting_again_changes_nothing(text: str) -> None:
    """On any text: the second pass finds nothing, and neither does a scan."""
    once = redact(text.encode("utf-8", "surrogatepass"), KEY)
    assert redact(once.data, KEY).data == once.data
    assert scan(once.data) == {}


def _hints_miss_nothing(text: str) -> None:
    redactor = Redactor(KEY)
    for line in text.split("\n"):
        expected = line
        for rule in RULES:
            expected = _edited(expected, _edits(rule, expected, redactor._pseudonym))
        looks = redactor.looks(shape_of(line.encode("utf-8", "surrogatepass")))
        by_hints = line
        for rule in looks.rules:
            by_hints = _edited(by_hints, _edits(rule, by_hints, redactor._pseudonym))
        assert by_hints == expected
        assert looks.may_open or opened_block(line) is None


@example(text="AKIAIOSFODNN7EXAMPLE::ffff:cb00:7109")
@example(text=f"sent {'0a' * 18}FFFFNRAL")
@example(text=f'password for {"漢" * 31} is "hunter2x"')
@example(text=f"following token {'漢' * 55}:")
@example(text=f"://{'漢' * 220}:{'漢' * 20}@ -u {'漢' * 60}:x")
@given(text=SOUP)
def test_hints_miss_nothing(text: str) -> None:
    """A rule whose hint is absent from a line's shape finds nothing in the line, nor in what
    earlier rules made of it, and such a line begins no block.
    """
    _hints_miss_nothing(text)


def test_hints_miss_nothing_planted() -> None:
    """Nor of what the corpus holds."""
    rng = random.Random(7)
    for plant in PLANTS * EACH:
        _hints_miss_nothing(plant(rng).message)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RULES)))
@given(data=st.data())
def test_needles_miss_no_hint(number: int, data: st.DataObject) -> None:
    """What a hint matches holds one of the needles of its rule, or the rule finds nothing there."""
    rule = RULES[number]
    found = data.draw(st.from_regex(rule.hint.encode())) if rule.needles else b""
    if not any(needle.encode() in found.lower() for needle in rule.needles):
        assert not list(_edits(rule, found.decode("latin-1"), lambda *_: ""))


@given(data=st.binary(max_size=300), size=st.integers(1, 50))
def test_bytes_outside_the_rules_stay(data: bytes, size: int) -> None:
    """Arbitrary bytes never raise and keep their lines, and a scan counts the same however they are
    cut.
    """
    done = redact(data, KEY)
    assert done.data.count(b"\n") == data.count(b"\n")
    if not done.counts:
        assert done.data == data
    assert scan([data[place : place + size] for place in range(0, len(data), size)]) == done.counts


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "a.",
        "a@",
        "token=",
        'auth_id="',
        "\\",
        "text: [",
        "eyJ",
        "1.",
        "f",
        "fe80:",
        "/home/",
        "://a:",
        "Bearer ",
        "a_",
        "-",
        "cookie:",
        "A",
        "[",
        "{",
        "token={",
        "token=('",
        "text: [(",
        "auth_id: Some(",
        "%26sig%3D",
        "\\users\\",
        '","value":"',
        "api key",
        "\x1b[",
    ],
)
def test_a_long_line_of_anything_takes_linear_time(unit: str) -> None:
    """No rule goes quadratic: 200 kB of what might begin a match ends within the limit of every
    test.
    """
    redact((unit * (200_000 // len(unit))).encode(), KEY)


GROWTH = 16
"""How much longer the second line is. Work grows by 256 where it is quadratic."""


def _work_s(line: str) -> float:
    redactor, begun = Redactor(KEY), time.process_time()
    for text in line.split("\n"):
        redactor.line(text)
    return time.process_time() - begun


def _keys(count: int) -> str:
    return " ".join(f"token=abcdefgh{number:08d}" for number in range(count))


LINES: dict[str, Callable[[int], str]] = {
    "escapes": lambda count: "\x1b[" * count,
    "escapes that hide keys": lambda count: "".join(
        f"\x1b[{n}mtok\x1b[{n + 1}men=abcdefgh{n:08d} \\u0074oken=abcdefgh{n:08x}"
        for n in range(count // 16)
    ),
    "strings of a terminal": lambda count: "\x1b]" * count,
    "many keys": lambda count: _keys(count // 8),
    "BEGIN without END": lambda count: "-----BEGIN A-----;" * (count // 4),
    "BEGIN before one END": lambda count: "-----BEGIN A-----;" * (count // 4) + "-----END A-----",
    "pass:": lambda count: "pass:" * count,
    "8-bit strings of a terminal": lambda count: "\x90" * count,
    "options": lambda count: "-----BEGIN" * (count // 4),
    "keys of vendors": lambda count: "acme_key=" * count,
    "a long key": lambda count: "acme_key=" + "a7" * count + ".x",
    "words of keys": lambda count: "key-" * count,
    "keys in a run that ends as a file": lambda count: "key-x" * count + ".x",
    "keys in a run that ends as a name": lambda count: "key-x" * count + "=x",
    "keys before a token that ends as a file": lambda count: (
        "key-x" * count + "." + "a7" * count + ".x"
    ),
    "backslashes": lambda count: "nxc -p " + "\\" * count + "password is " + "\\" * count,
    "users of hooks": lambda count: "://a:" * count + "@hooks/",
    "users": lambda count: "-u" * count,
    "strings of a call": lambda count: 'BasicAuth("' * (count // 4),
    "dollars": lambda count: "$6$" * count,
    "commands": lambda count: "nxc -p" * count,
    "hooks": lambda count: "://hooks/" * count,
    "folders of hooks": lambda count: "://h" + "/hook" * count,
    "secrets that follow": lambda count: "following token " * count,
    "passwords": lambda count: "password for " * count,
    "shapes of tokens": lambda count: "a_live_" * count,
    "a long run": lambda count: "a1" * count + "_",
    "blanks after a name": lambda count: "key" + " " * count + "x",
    "line ends after a name": lambda count: 'variable "key"' + "\\n" * count + "]",
    "blanks in a list": lambda count: "token = [\nBearer" + " " * count + "@",
    "objects after quotes": lambda count: "token x " + '"{' * count,
    "users that are empty": lambda count: "://:" * count,
    "echoes": lambda count: "echo " * count,
    "archives": lambda count: "zip " * count,
    "messages": lambda count: '{"log":"",' * (count // 4),
    "strings in a list": lambda count: 'token = [\n{"MESSAGE":"' + '"a",' * count + "]",
}


@pytest.mark.parametrize("name", LINES)
def test_work_grows_with_the_line_and_not_with_its_square(name: str) -> None:
    """A line that is 16 times as long takes far less than 16 times 16 times the work."""
    make = LINES[name]
    short_s = max(0.001, min(_work_s(make(500)) for _ in range(3)))
    assert _work_s(make(500 * GROWTH)) < short_s * GROWTH * 5


def test_keys_are_replaced_everywhere_however_many() -> None:
    """Few keys are searched for one by one, many in one pass: both leave none behind."""
    for count in (3, 300):
        values = [f"abcdefgh{number:08d}" for number in range(count)]
        line = _keys(count) + " again " + " ".join(f"({value})" for value in values)
        done = redact(line.encode(), KEY)
        assert not any(value.encode() in done.data for value in values)
        assert done.counts == {"key": 2 * count}


def test_keys_before_their_ends_and_after_others_that_never_ended_are_gone() -> None:
    """A line may hold several keys, cut ones among them."""
    begin, end = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"
    cut = f'{begin}\\nMIIE","x'
    for line in (f"{begin} MIIEabc {end} x", f"{cut}{begin} 'MIIEabc' {end} x", f"{cut * 4}{end}"):
        assert "MIIE" not in redacted(line)


def test_blocks_that_come_again_count_each_time() -> None:
    """A block like one before is not looked at again, and its findings count all the same."""
    block = b"token=abcdefgh1\n" * 10
    redactor = Redactor(KEY)
    shown = {redactor.block(block) for _ in range(3)}
    assert len(shown) == 1
    assert redactor.counts == {"key": 30}
    open_list = b"authorized_ids = [\n"
    assert redactor.block(open_list) == open_list
    assert b"s3cret-value-1" not in redactor.block(b"'s3cret-value-1',\n")
    assert b"s3cret-value-1" not in redactor.block(b"'s3cret-value-1',\n")


def test_a_file_of_many_secrets_keeps_its_callers_apart() -> None:
    """1,000 callers stay 1,000 callers."""
    rng = random.Random(3)
    values = {maker(rng) for maker in (jwt, aws_id, ipv4) for _ in range(400)}
    text = "\n".join(f"token={value}" for value in sorted(values))
    assert len(set(redacted(text).split("\n"))) == len(values)


# --- the key --------------------------------------------------------------------------------------


def test_the_key_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSMOPS_REDACTION_KEY is the key, and no file is made."""
    monkeypatch.setenv("DSMOPS_REDACTION_KEY", "0123456789abcdef")
    assert load_or_create_key() == b"0123456789abcdef"
    assert not Path(os.environ["XDG_STATE_HOME"]).exists()


def test_the_key_file_is_made_once_and_for_its_owner_only() -> None:
    """Without the variable a random key is kept in the state folder, mode 0600, and found again."""
    key = load_or_create_key()
    path = Path(os.environ["XDG_STATE_HOME"]) / "dsmops" / "redaction.key"
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key() == key
    assert [other.name for other in path.parent.iterdir()] == ["redaction.key"]


def test_a_key_that_others_can_read_or_guess_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key file with rights for others, and a key of few different bytes, are refused with a
    hint.
    """
    load_or_create_key()
    path = Path(os.environ["XDG_STATE_HOME"]) / "dsmops" / "redaction.key"
    for mode in (0o644, 0o640, 0o602):
        path.chmod(mode)
        with pytest.raises(InputError, match="other users can read the redaction key") as caught:
            load_or_create_key()
        assert f"chmod 600 {path}" in caught.value.hint
    path.chmod(0o600)
    load_or_create_key()
    monkeypatch.setenv("DSMOPS_REDACTION_KEY", "abab" * 10)
    with pytest.raises(InputError, match="can be guessed"):
        load_or_create_key()


TOKENS = [(shape.vendor, mark, shape) for shape in TOKEN_SHAPES for mark in shape.marks]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vendor", "mark", "shape"), TOKENS, ids=[f"{v}-{m}" for v, m, _ in TOKENS]
)
def test_every_token_of_the_table_is_found(vendor: str, mark: str, shape: TokenShape) -> None:
    """Tokens made from their row are found alone, in a sentence, in JSON and in a URL, and no more
    than them is taken.
    """
    rng = random.Random(f"{vendor} {mark}")
    for _ in range(4):
        token = example_token(shape, mark, rng)
        for form in ("{}", "got {} from it", '{{"x":"{}"}}', "https://h/{}/x", "x=({})"):
            text = form.format(token)
            assert token not in redacted(text), text
        assert redacted(f"got {token} from it").startswith("got <")
        assert redacted(f"got {token} from it").endswith("> from it")


def test_words_that_begin_like_a_token_stay() -> None:
    """The short starts of some tokens are also starts of words, names and paths."""
    for text in (
        "sk-learn-based-scheduler-of-tasks hf_transfer hf_hub_download glpat-ern pattern.of.things",
        "SKIPPED ACKNOWLEDGED as-a-service-for-everybody-here ak-47 fw_update r8_ "
        "npm_config_registry",
        "pypi-server xai-grok sl.something live_view test_pub_sub key-value ntn_ secret_santa dapi",
        "b.r.s.name s.startswith(x) pat.match access-production-db polar_ sc_config "
        "ext_modules/a/b/c",
    ):
        assert redacted(text) == text


@pytest.mark.slow
def test_first_runs_at_once_agree_on_one_key() -> None:
    """Three processes that all find no key end up with the same."""
    code = "from dsmops.logs import load_or_create_key; print(load_or_create_key().decode())"
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert len({run.communicate()[0] for run in runs}) == 1


def test_where_no_key_can_be_kept_the_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service's home may be read-only, or none."""
    (tmp_path / "state").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(FileAccessError, match=r"redaction\.key") as caught:
        load_or_create_key()
    assert "DSMOPS_REDACTION_KEY" in caught.value.hint


def test_a_key_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short key could be guessed, and with it every address.

    The error says where it came from, not what it is.
    """
    monkeypatch.setenv("DSMOPS_REDACTION_KEY", "hunter2-hunter2")
    with pytest.raises(InputError, match="DSMOPS_REDACTION_KEY") as error:
        load_or_create_key()
    assert "hunter2" not in error.value.message + error.value.hint
    monkeypatch.delenv("DSMOPS_REDACTION_KEY")
    load_or_create_key()
    (Path(os.environ["XDG_STATE_HOME"]) / "dsmops" / "redaction.key").write_text("short\n")
    with pytest.raises(InputError, match=r"redaction\.key"):
        load_or_create_key()
