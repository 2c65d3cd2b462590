"""Messages with secrets planted in them, made from a random source: the corpus on which redaction
must miss nothing.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from dsmops.logs.rules.tokens import TOKEN_SHAPES, TokenShape

ALNUM = string.ascii_letters + string.digits
WORDS = [
    "hello",
    "my name is",
    "Ångström",
    "call me at home",
    "the code is 1234",
    "it's [urgent]",
    'she said "no"',
    "a, b & c",
]


@dataclass(frozen=True)
class Planted:
    """A message, the rule that has to hit, and what must not be seen afterwards."""

    rule: str
    message: str
    secrets: tuple[str, ...]


SECRET_NAMES = [
    "token",
    "api_key",
    "apiKey",
    "API-KEY",
    "kyutai-api-key",
    "secret",
    "password",
    "client_secret",
    "access_token",
    "refreshToken",
    "session_id",
    "auth_id",
    "HF_TOKEN",
    "passwd",
    "private_key",
    "credential",
    "auth-token",
    "csrf_token",
    "authorization_code",
]

Plant = Callable[[random.Random], Planted]
PLANTS: list[Plant] = []


def plant(function: Plant) -> Plant:
    PLANTS.append(function)
    return function


def chars(rng: random.Random, count: int, alphabet: str = ALNUM) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def in_a_form(rng: random.Random, value: str, around: str, *forms: str) -> Planted:
    """Return a key in one of some forms, and that in what stands around it."""
    return Planted("key", around.format(rng.choice(forms).format(value)), (value,))


def secret(rng: random.Random) -> str:
    """A password or key that needs no particular shape, not even a long one."""
    return rng.choice(
        [
            f"sk_live.{chars(rng, 9)}",
            f"{chars(rng, 5)}-{chars(rng, 5)}!{chars(rng, 3)}",
            chars(rng, 24),
            f"pa$${chars(rng, 6)}",
        ]
    )


def jwt(rng: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return ".".join(
        [
            part({"alg": "HS256", "typ": "JWT"}),
            part({"sub": chars(rng, 12), "exp": rng.randint(1, 2**31)}),
            chars(rng, 43),
        ]
    )


def aws_id(rng: random.Random) -> str:
    return rng.choice(["AKIA", "ASIA"]) + chars(rng, 16, string.ascii_uppercase + string.digits)


def aws_secret(rng: random.Random) -> str:
    return "wJ4" + chars(rng, 37, ALNUM + "/+")


def ipv4(rng: random.Random) -> str:
    return ".".join(
        map(
            str,
            [
                rng.choice([10, 34, 85, 172, 192, 203]),
                rng.randint(0, 255),
                rng.randint(0, 255),
                rng.randint(1, 254),
            ],
        )
    )


def ipv6(rng: random.Random) -> str:
    groups = [f"{rng.randint(1, 0xFFFF):x}" for _ in range(6)]
    return rng.choice(
        [
            f"2001:db8:{':'.join(groups)}",
            f"2a02:8108:{groups[0]}::{groups[1]}",
            f"fd12:3456:789a::{groups[2]}",
            f"fe80::{groups[3]}:{groups[4]}",
        ]
    )


@plant
def debug_struct(rng: random.Random) -> Planted:
    value = secret(rng)
    struct = rng.choice(
        ["AsrStreamingQuery", "PyStreamingQuery", "MimiStreamingQuery", "TtsStreamingQuery"]
    )
    more = rng.choice(["", ", format: PcmMessagePack, voice: None", ', room_id: Some("a")'])
    return Planted(
        "key", f'batched-asr ws query query={struct} {{ auth_id: Some("{value}"){more} }}', (value,)
    )


@plant
def debug_struct_in_a_string(rng: random.Random) -> Planted:
    value = secret(rng)
    return Planted(
        "key", f'request="Query {{ auth_id: Some(\\"{value}\\"), x: 1 }}" status=200', (value,)
    )


@plant
def named_value(rng: random.Random) -> Planted:
    value = secret(rng)
    name = rng.choice(SECRET_NAMES)
    form = rng.choice(
        [
            "{}={}",
            "{}: {}",
            '{}="{}"',
            "{}: '{}'",
            '"{}": "{}"',
            "'{}': '{}'",
            "{} = {}",
            '("{}", "{}")',
            "{}=>{}",
            "x{{{}={}}}",
        ]
    )
    return Planted("key", f"config {form.format(name, value)} end", (value,))


@plant
def list_of_keys(rng: random.Random) -> Planted:
    values = [secret(rng) for _ in range(3)]
    shown = json.dumps(values)[1:-1]
    form = rng.choice(
        [
            "[{}]",
            "{{{}}}",
            "({})",
            "Some({{{}}})",
            "Array [{}]",
            "[[[{}]]]",
            'Ids {{ name: "a]", ids: [{}] }}',
        ]
    )
    return Planted("key", f"authorized_ids: {form.format(shown)}, modules: 2", tuple(values))


@plant
def wrapped_value(rng: random.Random) -> Planted:
    """In the types that Debug of JSON and TOML values, of smart pointers and of structs shows."""
    value = secret(rng)
    form = rng.choice(
        [
            'String("{}")',
            'Some(String("{}"))',
            'Secret(Box("{}"))',
            'Token {{ value: "{}" }}',
            'Sensitive("{}")',
            '&"{}"',
        ]
    )
    return Planted("key", f'Object {{"auth_id": {form.format(value)}, "x": Number(1)}}', (value,))


@plant
def name_beside_value(rng: random.Random) -> Planted:
    value = secret(rng)
    form = rng.choice(
        [
            '{{"name":"{}","value":"{}"}}',
            "{{'name': '{}', 'value': '{}'}}",
            'Header {{ name: "{}", value: "{}" }}',
        ]
    )
    return Planted("key", f"headers: [{form.format(rng.choice(SECRET_NAMES), value)}]", (value,))


@plant
def url_in_a_url(rng: random.Random) -> Planted:
    value = chars(rng, 20)
    name = rng.choice(["auth_id", "token", "X-Amz-Signature", "X-Goog-Signature", "api_key", "sig"])
    target = quote(f"https://host/api?{name}={value}&x=1", safe="")
    return Planted(
        "key",
        f"GET /login?next={rng.choice([target, quote(target)] if name != 'sig' else [target])} 302",
        (value,),
    )


@plant
def url_parameter(rng: random.Random) -> Planted:
    value = chars(rng, rng.randint(6, 40))
    name = rng.choice(["auth_id", "token", "access_token", "api_key", "key", "sig", "code"])
    return Planted(
        "key", f"GET /api/asr-streaming?format=PcmMessagePack&{name}={value}&x=1 HTTP/1.1", (value,)
    )


@plant
def command_line(rng: random.Random) -> Planted:
    value = chars(rng, 20)
    return Planted(
        "key",
        f"+ {rng.choice(['huggingface-cli login --token', 'serve --api-key', 'x --password'])} "
        f"{value} --add",
        (value,),
    )


@plant
def url_with_password(rng: random.Random) -> Planted:
    value = chars(rng, 12)
    return Planted(
        "key", f"connecting to postgres://kyutai:{value}@db.internal:5432/logs", (value,)
    )


@plant
def bare_jwt(rng: random.Random) -> Planted:
    value = jwt(rng)
    return Planted("jwt", f"client sent {value}, expired", (value, value.split(".")[2]))


@plant
def jwt_in_a_path(rng: random.Random) -> Planted:
    value = jwt(rng)
    return Planted(
        "jwt", f'request{{uri="/api/tts/{value}/stream"}} started', (value.split(".")[1],)
    )


@plant
def authorization(rng: random.Random) -> Planted:
    value = rng.choice(
        [jwt(rng), chars(rng, 32), base64.b64encode(f"user:{secret(rng)}".encode()).decode()]
    )
    scheme = rng.choice(["Bearer", "Basic", "bearer", "Token"])
    form = rng.choice(
        [
            "Authorization: {}",
            '"authorization": "{}"',
            "authorization={}",
            "('authorization', '{}')",
            "headers={{'Authorization': '{}'}}",
        ]
    )
    return Planted("authorization", form.format(f"{scheme} {value}"), (value,))


@plant
def signed_authorization(rng: random.Random) -> Planted:
    key, signature = aws_id(rng), chars(rng, 64, "0123456789abcdef")
    header = (
        f"AWS4-HMAC-SHA256 Credential={key}/20251115/eu-west-3/s3/aws4_request,"
        f" SignedHeaders=host;range, Signature={signature}"
    )
    return Planted("authorization", f"> Authorization: {header}", (key, signature))


@plant
def bare_bearer(rng: random.Random) -> Planted:
    value = chars(rng, 30) + "7"
    return Planted("authorization", f"sent Bearer {value} upstream", (value,))


@plant
def cookie(rng: random.Random) -> Planted:
    value = chars(rng, 32)
    form = rng.choice(
        [
            "Cookie: theme=dark; better-auth.session_token={}",
            '"cookie": "better-auth.session_token={}; a=b"',
            "set-cookie: sid={}; HttpOnly",
        ]
    )
    return Planted("cookie", form.format(value), (value,))


@plant
def aws_pair(rng: random.Random) -> Planted:
    key, value = aws_id(rng), aws_secret(rng)
    if rng.random() < 0.3:
        return Planted(
            "key", f"AWS_ACCESS_KEY_ID={key} AWS_SECRET_ACCESS_KEY={value}", (key, value)
        )
    return Planted(
        "aws",
        rng.choice(["aws configure: {} {}", "s3 credentials {}:{}", "{} {}"]).format(key, value),
        (key, value),
    )


def example_token(shape: TokenShape, mark: str, rng: random.Random) -> str:
    """Return a token of a vendor, made at run time so that none stands in this repository."""

    def some(alphabet: str, least: int) -> str:
        allowed = [char for char in string.printable[:94] if re.fullmatch(f"[{alphabet}]", char)]
        made = "".join(rng.choice(allowed) for _ in range(least + rng.randint(1, 9)))
        # It ends with a letter or digit, as tokens do, and holds a digit.
        ends = [char for char in allowed if char.isalnum()]
        return made[:-2] + next(char for char in ends if char.isdigit()) + rng.choice(ends)

    before = some(shape.before, shape.least_before) if shape.before else ""
    if shape.before and shape.vendor == "Mailchimp":
        before = before[:32]
    return before + mark + some(shape.alphabet, shape.least)


@plant
def any_token_of_the_table(rng: random.Random) -> Planted:
    shape = rng.choice([shape for shape in TOKEN_SHAPES if shape.marks[0].isascii()])
    value = example_token(shape, rng.choice(shape.marks), rng)
    return Planted("token", f"failed to download with {value} : 401", (value,))


@plant
def vendor_token(rng: random.Random) -> Planted:
    value = rng.choice(
        [
            f"hf_{chars(rng, 34)}",
            f"ghp_{chars(rng, 36)}",
            f"github_pat_{chars(rng, 40)}",
            f"sk-proj-{chars(rng, 40)}",
            f"glpat-{chars(rng, 20)}",
            f"sk_live_{chars(rng, 24)}",
            f"npm_{chars(rng, 36)}",
            f"x_hf_{chars(rng, 34)}",
        ]
    )
    return Planted("token", f"failed to download with {value}: 401", (value,))


HEX = "0123456789abcdef"


def drawn(rng: random.Random, count: int, alphabet: str = ALNUM) -> str:
    """Return what a machine draws: letters and digits change often."""
    return "a7B" + chars(rng, count - 6, alphabet) + "3x9"


@plant
def key_of_a_vendor(rng: random.Random) -> Planted:
    """No list holds its name; the word after the name and the value tell."""
    value = rng.choice(
        [
            drawn(rng, rng.randint(20, 64)),
            chars(rng, rng.choice([32, 40, 64]), HEX),
            "-".join(chars(rng, count, HEX) for count in (8, 4, 4, 4, 12)),
        ]
    )
    name = rng.choice(["acme", "weather-ly", "pdfserver", "ship.wave", "myMailer"])
    form = rng.choice(
        [
            "{}_key={}",
            "{}_key = '{}'",
            '"{}Key": "{}"',
            "{}.key: {}",
            "{}_PRIVATE: {}",
            "{} SECRET {}",
            "{} KEY {}",
            "{} ACCESS {}",
            "{}-access-{}",
            "{}-secret-{}",
            "{}_pat = {}",
            "{}.login={}",
            "{}_api={}",
            "{}-Crumb: {}",
        ]
    )
    return Planted("key", f"config {form.format(name, value)} end", (value,))


@plant
def password_in_a_sentence(rng: random.Random) -> Planted:
    value = f"{chars(rng, 5)}7{chars(rng, 2)}"
    return in_a_form(
        rng,
        value,
        "{}",
        "the password is '{}'",
        'Password for user bob is "{}".',
        "the passphrase was {}, change it",
        "password is: {}.",
        f"password for {'漢' * 31} is '{{}}'",
    )


@plant
def option_of_a_command(rng: random.Random) -> Planted:
    value = chars(rng, 12)
    return in_a_form(
        rng,
        value,
        "+ {}",
        "PsExec.exe /accepteula host -u bob -p {} cmd",
        "mongodump -u bob -p {} --out x",
        'psexec host -p "{} horse" cmd',
        "mosquitto_pub -h broker -u bob -P {} -t x",
        "ldapsearch -x -D cn=bob -w {} -b dc=x",
        "smbclient -U bob%{} //host/share",
        "rabbitmqctl add_user bob {}",
        'new NetworkCredential("bob", "{}")',
        "HTTPBasicAuth('bob', '{}')",
    )


@plant
def password_of_a_statement(rng: random.Random) -> Planted:
    value = f"{chars(rng, 6)} {chars(rng, 6)}"
    return in_a_form(
        rng,
        value,
        "run {} now",
        "CREATE USER bob IDENTIFIED BY '{}'",
        "ALTER USER bob IDENTIFIED WITH caching_sha2_password BY '{}'",
        "ALTER ROLE bob WITH ENCRYPTED PASSWORD '{}'",
        "SET PASSWORD FOR 'bob'@'%' = '{}'",
        "CREATE LOGIN bob WITH PASSWORD = N'{}'",
    )


@plant
def secret_of_a_command_or_protocol(rng: random.Random) -> Planted:
    return in_a_form(
        rng,
        f"{chars(rng, 11)}7",
        "{}",
        "+ echo {} | docker login -u bob --password-stdin",
        "+ chpasswd <<< 'bob:{}'",
        "+ gh secret set API_KEY --body {}",
        "+ twine upload -u bob -p {} x",
        "+ poetry config http-basic.x bob {}",
        "+ keytool -import -storepass {}",
        "+ ssh-keygen -t ed25519 -N {}",
        "##vso[task.setvariable variable=apiKey;issecret=true]{}",
        '1763195943.5 [0 db:6] "AUTH" "{}"',
        "> requirepass {}",
        "AUTH PLAIN {}",
        "a001 LOGIN bob {}",
        "---> PASS {}",
        "username bob password 0 {}",
        "*:*:*:bob:{}",
    )


@plant
def shares_of_a_vault(rng: random.Random) -> Planted:
    value = drawn(rng, 44, ALNUM + "+/")
    return in_a_form(
        rng, value, "{}", "Unseal Key 2: {}", "Recovery Key 1: {}", "vault operator unseal {}"
    )


@plant
def address_that_is_a_secret(rng: random.Random) -> Planted:
    value = drawn(rng, 24)
    return in_a_form(
        rng,
        value,
        "POST {}",
        "https://chat.example.org/hooks/{}",
        "https://host/workflow/webhook/{}/run",
        "https://hooks.example.org/x/{}",
        "https://hooks.zapier.com/hooks/catch/123456/{}/",
        "https://hc-ping.com/{}",
        "https://maker.example.org/trigger/x/with/key/{}",
    )


@plant
def password_hash(rng: random.Random) -> Planted:
    value = drawn(rng, 43, ALNUM + "./")
    return in_a_form(
        rng,
        value,
        "row {}",
        "bob:$1$saltsalt${}:19000:",
        "$2b$12${}",
        "$5$rounds=5000$saltsalt${}",
        "$6$saltsalt${}",
        "$y$j9T$saltsalt${}",
        "$8$saltsalt${}",
        "$argon2id$v=19$m=65536,t=3,p=4$saltsalt${}",
        "pbkdf2_sha256$260000$saltsalt${}",
        "{{SSHA}}{}",
        "$krb5asrep$23$bob@EXAMPLE:{}",
    )


@plant
def token_of_parts(rng: random.Random) -> Planted:
    value = rng.choice(
        [
            f"{chars(rng, 36, HEX)}NRAL",
            f"{chars(rng, 36, HEX)}FFFFNRAL",
            f"00D{drawn(rng, 12)}!{drawn(rng, 60)}",
            f"{drawn(rng, 76)}AZDO{chars(rng, 4)}",
            f"1000.{chars(rng, 32, HEX)}.{chars(rng, 32, HEX)}",
            f"1/{chars(rng, 16, string.digits)}:{chars(rng, 32, HEX)}",
            f"KEY{drawn(rng, 55)}",
            f"live_{chars(rng, 9, string.digits)}_{drawn(rng, 30)}",
            f"acme_live_{drawn(rng, 20)}",
            f"acme-test-{drawn(rng, 20)}",
            f"acme_pat_{chars(rng, 40, HEX)}",
            f"acme_{drawn(rng, 36)}",
            f"BBFF-{drawn(rng, 30)}",
            f"12-{drawn(rng, 64)}",
        ]
    )
    return Planted("token", f"failed to download with {value} : 401", (value,))


@plant
def pem_in_base64(rng: random.Random) -> Planted:
    value = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t" + chars(rng, 80)
    return Planted("token", f"mounted {value} as a file", (value,))


@plant
def presigned_url(rng: random.Random) -> Planted:
    key, signature, session = aws_id(rng), chars(rng, 64, "0123456789abcdef"), chars(rng, 60)
    url = (
        f"https://bucket.s3.amazonaws.com/model.safetensors?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={key}%2F20251115%2Fus-east-1"
        f"%2Fs3%2Faws4_request&X-Amz-Date=20251115T083903Z&X-Amz-Expires=3600&X-Amz-Security-Token={session}&X-Amz-Signature={signature}"
    )
    return Planted("key", f"downloading {url}", (key, signature, session))


@plant
def one_line_pem(rng: random.Random) -> Planted:
    body = "\\n".join(chars(rng, 64) for _ in range(3))
    kind = rng.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "CERTIFICATE"])
    return Planted(
        "pem",
        f"tls: -----BEGIN {kind}-----\\n{body}\\n-----END {kind}----- loaded",
        (body, body[:20]),
    )


@plant
def address_v4(rng: random.Random) -> Planted:
    value = ipv4(rng)
    form = rng.choice(
        [
            'addr="{}"',
            "addr={}:51234",
            "client_ip={}",
            "from {} after 3 s",
            "ws://{}:8080/api",
            "[{}]",
            "X-Forwarded-For: {}, 127.0.0.1",
            "peer {}.",
            "peer/{}:51234",
        ]
    )
    return Planted("ip", f"handling asr-streaming query {form.format(value)}", (value,))


@plant
def address_v6(rng: random.Random) -> Planted:
    value = ipv6(rng)
    return Planted(
        "ip",
        rng.choice(
            [
                "addr={}",
                "http://[{}]:8080/",
                "from {} port 1",
                '"x-real-ip": "{}"',
                "{}: refused",
                "peer {}.",
                "{}%eth0",
            ]
        ).format(value),
        (value,),
    )


@plant
def host_with_address(rng: random.Random) -> Planted:
    value = ipv4(rng).replace(".", "-")
    return Planted("ip", f"running on ip-{value}.eu-west-3.compute.internal", (value,))


@plant
def email(rng: random.Random) -> Planted:
    value = f"{chars(rng, 6).lower()}.{chars(rng, 4)}@{chars(rng, 5).lower()}.{rng.choice(['com', 'co.uk', 'fr'])}"
    return Planted(
        "email",
        rng.choice(["user {} joined", "<{}>", "mailto:{}?x", 'owner="{}"', "sub={}"]).format(value),
        (value,),
    )


@plant
def home_folder(rng: random.Random) -> Planted:
    user = rng.choice(["alice", "j.doe", "marie-claire", "bob42", "ubuntu"])
    form = rng.choice(
        [
            "/home/{}/.cargo/registry/src/x.rs",
            "config=/Users/{}/dsm/config.toml",
            "C:\\Users\\{}\\logs",
            "file:///home/{}/a.wav",
            '"/home/{}"',
            "/home//{}/x",
            "c:\\users\\{}\\logs",
            "next=%2Fhome%2F{}%2Fx",
        ]
    )
    return Planted("home", f"loading {form.format(user)}", (user,))


@plant
def tts_text(rng: random.Random) -> Planted:
    texts = [rng.choice(WORDS) for _ in range(rng.randint(1, 3))]
    shown = json.dumps(texts, ensure_ascii=False)
    form = rng.choice(
        [
            (
                "handling tts query Json(TtsQuery { text: "
                f"{shown}, seed: 42, temperature: 0.8, voice: None }})"
            ),
            (
                "handling py streaming post query Json(TtsQuery { text:"
                f' {json.dumps(" ".join(texts), ensure_ascii=False)}, voice: "a" }})'
            ),
            f"starting tts prompt={shown}",
            f'saved query {{"texts": {shown}, "seed": 1}}',
            f'sent {{"type": "Text", "text": {json.dumps(texts[0], ensure_ascii=False)}}}',
        ]
    )
    return Planted(
        "text", form, tuple(json.dumps(text, ensure_ascii=False)[1:-1] for text in texts)
    )


@plant
def post_body(rng: random.Random) -> Planted:
    value = chars(rng, 30)
    return Planted(
        "text", f'handling py asr streaming post query b"RIFF\\x24\\x00{value}"', (value,)
    )
