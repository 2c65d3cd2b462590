"""Names and values are found behind every disguise, and what stands around them stays as it was."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.logs import Redactor, redact, scan
from dsmops.logs.disguise import lines_within, unveil, views
from tests.logs.disguises import DISGUISES, Disguise, messages
from tests.logs.oracle import plain_lines_within, plain_views

KEY = b"a key for tests only"


def readings(text: str) -> list[str]:
    """A line as it is, and as somebody reads it who undoes any one disguise."""
    return [text, *(view.text for view in views(text))]


@pytest.mark.slow
@pytest.mark.parametrize("disguise", DISGUISES, ids=lambda disguise: disguise.name)
def test_no_secret_hides_behind_a_disguise(disguise: Disguise) -> None:
    """Whatever a program made of the line: the value is gone from every reading of it."""
    for message, secret in messages(random.Random(7)):
        dressed = disguise.dress(message, secret)
        out = redact(dressed.encode(), KEY)
        shown = out.data.decode()
        assert out.counts, dressed
        for reading in readings(shown):
            assert secret not in reading, dressed
            assert secret[:9] not in reading, dressed
            assert secret[9:] not in reading, dressed
        assert scan(out.data) == {}, shown


@pytest.mark.parametrize(
    "name",
    ["grep --color", "zero-width space", "quotes as JSON escapes", "URL", "HTML", "CR of Windows"],
)
def test_a_disguised_caller_has_the_pseudonym_of_the_plain_one(name: str) -> None:
    """One caller stays one caller, and the disguise around the value stays too."""
    disguise = next(disguise for disguise in DISGUISES if disguise.name == name)
    for message, secret in messages(random.Random(7)):
        pseudonym = next(iter(_pseudonyms(redact(message.encode(), KEY).data.decode())))
        out = redact(disguise.dress(message, secret).encode(), KEY).data.decode()
        assert _pseudonyms(out) == {pseudonym}


def _pseudonyms(text: str) -> set[str]:
    return {part[:8] for part in text.split("<key:")[1:]}


def test_json_stays_json_around_what_was_found() -> None:
    """A document whose strings hold escapes still parses, with the value replaced."""
    document = {"log": 'query {"auth_id": "s3cret-of-mine", "x": "\u200b<1>"}', "n": 1}
    text = json.dumps(document).replace('\\"', "\\u0022")
    found = json.loads(redact(text.encode(), KEY).data)
    assert "s3cret" not in str(found)
    assert found["log"].startswith('query {"auth_id": "<key:')
    assert found["log"].endswith('", "x": "\u200b<1>"}')


PIECES = [
    "auth_id",
    "=",
    "\x1b[0m",
    "\x1b]8;;x\x1b\\",
    "\r",
    "\\u0022",
    "%3D",
    "%253D",
    "&quot;",
    "\\x1b[2m",
]
PIECES += [
    "\u200b",
    "a\b",
    "\\\\",
    "\\n",
    "#033[0m",
    "^[[0m",
    "abc",
    " ",
    "\u00e9",
    "%C3%A9",
    "\\xe2\\x80\\x8b",
    "\x9b1m",
]
PIECES += [
    "&#61;",
    "\\033[1m",
    "[1,2,3,97,98,99,100,101,102]",
    "\uff1d",
    "\x00",
    "\x1b",
    "%",
    "\\",
    "&amp;lt;",
]


@given(text=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14).map("".join))
def test_views_are_what_the_plain_way_makes_of_a_line(text: str) -> None:
    """Every view of any line equals that of an implementation that goes character by character, and
    so does the place of each of its characters.
    """
    text = text.replace("\n", " ")
    expected = plain_views(text)
    found = list(views(text))
    assert [view.text for view in found] == [shown for shown, _ in expected]
    for view, (shown, places) in zip(found, expected, strict=True):
        for index in range(len(shown)):
            assert view.spans(index, index + 1) == [places[index]]


@given(text=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=14).map("".join))
def test_unveiling_is_the_first_view(text: str) -> None:
    """`unveil` gives the text of the first view, or the line itself where there is none."""
    text = text.replace("\n", " ")
    first = next(views(text), None)
    assert first is None or unveil(text) in {first.text, text}


WITHIN = [
    '{"log":"',
    '"}',
    '{"a":1,"message": "',
    "\\n",
    "\\t",
    '\\"',
    "\\\\",
    "\\u0061",
    "\\ud83d",
]
WITHIN += ['a,"{""log"": ""', '""}"', '""', "\\", '\\""', "\\/"]


@given(text=st.lists(st.sampled_from(WITHIN + PIECES), max_size=14).map("".join))
def test_lines_within_are_what_the_plain_way_finds(text: str) -> None:
    """What JSON and CSV hold equals that of an implementation that goes character by character."""
    expected = plain_lines_within(text)
    found = list(lines_within(text))
    assert [view.text for view in found] == [shown for shown, _ in expected]
    for view, (shown, places) in zip(found, expected, strict=True):
        for index in range(len(shown)):
            assert view.spans(index, index + 1) == [places[index]]


def test_a_line_without_disguise_has_no_views() -> None:
    """The fast path: nothing is built for the lines of a plain log."""
    assert not list(views('2025-11-15T08:39:16.338577Z  INFO m: src/a.rs:1: x auth_id: Some("é")'))


def test_a_key_block_behind_any_prefix_goes() -> None:
    """PEM lines behind what collectors, mail, diffs and servers put in front."""
    body = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "c2hvcnQ="]
    edges = ["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"]
    for prefix, suffix in (
        ("Nov 15 08:39:03 gpu moshi-server[77]: ", ""),
        ("2025-11-15T08:39:03.595169+00:00 gpu moshi-server[77]: ", ""),
        ("2025-11-15T08:39:03.595169123Z stderr F ", ""),
        ('{"log":"', '\\n","stream":"stderr","time":"2025-11-15T08:39:03.595169123Z"}'),
        ('{"_PID":"7","MESSAGE":"', '","PRIORITY":"6"}'),
        ("> ", ""),
        ("+", ""),
        ("    ", "\r"),
        ("stt-1  | ", ""),
        ("[pod/stt-0/server] ", ""),
        ("2025-11-15T08:39:03.595169Z ERROR moshi_server: src/main.rs:12: ", ""),
        ("\x1b[2m2025-11-15T08:39:03.595169Z\x1b[0m \x1b[31mERROR\x1b[0m moshi_server: ", ""),
        ("[2025-11-15 08:39:03.595 AM UTC (+0000)] [ERROR] [moshi_server] src/main.rs:12: ", ""),
        ("<134>1 2025-11-15T08:39:03Z gpu moshi[7]: ", ""),
    ):
        block = "\n".join(
            f"{prefix}{line}{suffix}" for line in [edges[0], *body, edges[1], "after"]
        )
        out = redact(block.encode(), KEY)
        assert b"MIIE" not in out.data, prefix
        assert b"c2ho" not in out.data, prefix
        assert out.data.decode().split("\n")[-1] == f"{prefix}after{suffix}"
        assert scan(out.data) == {}


def test_a_key_cut_by_a_line_limit_goes_whole() -> None:
    """What docker, journald and we cut from a key of one line is still part of it."""
    key = (
        "-----BEGIN PRIVATE KEY-----" + "\\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ" * 4
    )
    for at in (40, 90, 130):
        text = f"tls: {key[:at]}\n{key[at:]}\\n-----END PRIVATE KEY-----\nafter"
        out = redact(text.encode(), KEY).data.decode()
        assert "MIIE" not in out
        assert out.endswith("\nafter")


@pytest.mark.parametrize(
    "text",
    [
        'env:\n- name: HF_TOKEN\n  value: SECRET\n- name: B',
        '{\n  "name": "HF_TOKEN",\n  "value": "SECRET"\n}',
        "auth_ids:\n  - SECRET\n  - 'SECRET'\nport: 1",
        "token: |\n  SECRET7\nport: 1",
        'authorized_ids = [  # ours\n  "SECRET",  # alice\n\n  # "SECRET",\n  // "SECRET"\n]',
        '+authorized_ids = [\n+  "SECRET",\n-  "SECRET", "SECRET"\n ]',
        "stt-1 | auth_ids = [\nstt-1 |   'SECRET'\nstt-1 | ]",
        'os.environ["X_API_KEY"] = "SECRET"',
        "config['hf']['token']='SECRET'",
        'os.environ.get("HF_TOKEN", "SECRET")',
        'ENV["HF_TOKEN"] ||= "SECRET"',
        'ApiKey("SECRET")',
        'HfToken(String("SECRET"))',
        "_auth_id=SECRET",
        "__Host-session_token=SECRET; x",
        ".token=SECRET",
        "-Dapi.key=1 -Dhf.token=SECRET",
        "myApiKey: SECRET",
        "openaiApiKey=SECRET",
        "HFToken=SECRET",
        'api_key: str = "SECRET"',
        'let token: &str = "SECRET";',
        'if token == "SECRET":',
        'password="C:\\dir\\" token="SECRET"',
        'a: "C:\\\\dir\\\\", token: "SECRET"',
        'q="{ a: \\"C:\\\\\\\\\\", token: \\"SECRET\\" }"',
        "curl -u bob:SECRET http://host",
        "curl --user 'bob:SECRET' http://host",
        "machine host login bob password SECRET",
        '{"auths":{"r.io":{"auth":"SECRET0="}}}',
        "https://SECRETSECRETSECRET@host/x",
        "Basic SECRET0=",
        'token="""SECRET"""',
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SECRET==;EndpointSuffix=core",
        "SharedAccessKey=SECRET",
        "https://a.blob.core.windows.net/c/f?sv=2024-01-01&se=2025&sp=r&sig=SECRET%3D",
        "https://h/b/f?GoogleAccessId=x&Expires=1&Signature=SECRET%2Fab",
        "https://b.s3.amazonaws.com/k?AWSAccessKeyId=SECRET&Signature=SECRET&Expires=1",
        "https://x/k?a=1&amp;sig=SECRET&amp;b=2",
        "?token=SECRET%26SECRET&next=1",
    ],
)  # fmt: skip
def test_names_and_values_in_all_their_spellings(text: str) -> None:
    """Each way in which people and programs write a secret beside its name."""
    text = text.replace("SECRET", "q7xk2mw9")
    out = redact(text.encode(), KEY)
    assert b"q7xk2mw9" not in out.data
    assert scan(out.data) == {}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ec2-203-0-113-9.compute-1.amazonaws.com", "203.0.113.9"),
        ("9.113.0.203.in-addr.arpa", "203.0.113.9"),
        ("203.0.113.9.static.example.net", "203.0.113.9"),
        ("dyn-203-0-113-9.isp.example.net", "203.0.113.9"),
        ("203-0-113-9.nip.io", "203.0.113.9"),
        ("app.203-0-113-9.sslip.io", "203.0.113.9"),
        ("pcb007109.dip0.t-ipconnect.de", "203.0.113.9"),
        ("%5B2001%3Adb8%3A%3A1%5D:8080", "2001:db8::1"),
        ("2001%3Adb8%3A%3A1", "2001:db8::1"),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            "2001:db8::1",
        ),
    ],
)
def test_names_that_hold_an_address_show_its_pseudonym(text: str, address: str) -> None:
    """Reverse names and encodings of an address are that address."""
    pseudonym = redact(address.encode(), KEY).data.decode()
    out = redact(f"from {text} port 1".encode(), KEY)
    assert pseudonym in out.data.decode()
    assert out.counts == {"ip": 1}


def test_a_redactor_of_clean_lines_builds_no_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines without disguise never reach the code that resolves one."""
    from dsmops.logs import redaction

    monkeypatch.setattr(redaction, "unveil", None)
    monkeypatch.setattr(redaction, "views", None)
    assert Redactor(KEY).line("addr=203.0.113.9").startswith("addr=<ip:")
