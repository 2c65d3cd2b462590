"""Secrets in what people paste and programs dump: shells, clients, configs, tables, terminals.

Each case is what the named program writes, made from its documentation and independently of the
rules. A case is a name, a text, and the secrets in it.
"""

# ruff: noqa: E501 each case is one line, as it was written

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from urllib.parse import quote

import pytest

from dsmops.logs import redact, scan
from tests.logs.dumps import AWKWARD, EVERYDAY, FLAT, OBJECTS, UNCLEAR, samples

KEY = b"a key for tests only"
S = "Zq7vR2mXk9TbL4wPsN8d"
P = "hunter2-Correct9Horse"
BASIC = base64.b64encode(b"bob:" + P.encode()).decode()
CASES: dict[str, tuple[str, tuple[str, ...]]] = {}


def case(name: str, text: str, *secrets: str) -> None:
    CASES[name] = (text, secrets or (S,))


# fmt: off
case('github actions env',f"2025-11-15T08:39:03.5951691Z   HF_TOKEN: {S}")
case('github actions add-mask',f"::add-mask::{S}")
case('github actions set-output',f"::set-output name=api_key::{S}")
case('github actions set-env',f"::set-env name=API_TOKEN::{S}")
case('powershell',f"$env:HF_TOKEN = \"{S}\"")
case('powershell set',f"Set-Item Env:API_KEY {S}")
case('powershell setx',f"setx HF_TOKEN {S}")
case('powershell securestring',f"ConvertTo-SecureString \"{P}\" -AsPlainText -Force",P)
case('powershell cred',f"New-Object System.Management.Automation.PSCredential('bob', (ConvertTo-SecureString '{P}' -AsPlainText -Force))",P)
case('dockerfile env',f"ENV HF_TOKEN {S}")
case('dockerfile env =',f"ENV HF_TOKEN={S} X=1")
case('dockerfile arg',f"ARG API_KEY={S}")
case('docker run -e',f"docker run -e HF_TOKEN={S} img")
case('docker inspect',f'"Env": [\n  "PATH=/usr/bin",\n  "HF_TOKEN={S}"\n]')
case('docker login',f"docker login -u bob -p {P} registry.example.org",P)
case('hcl',f'hf_token = "{S}"')
case('hcl heredoc',f'api_key = <<EOF\n{S}\nEOF')
case('hcl var',f'variable "api_key" {{\n  default = "{S}"\n}}')
case('tf output',f'+ password = "{P}" -> (known after apply)',P)
case('toml',f'api_key = \'\'\'{S}\'\'\'')
case('toml inline',f'auth = {{ token = "{S}", kind = "x" }}')
case('ini',f"[default]\naws_secret_access_key={'a1B2'*10}",'a1B2'*10)
case('yaml folded',f"password: >-\n  {P}",P)
case('yaml literal',f"api_key: |\n  {S}\nother: x")
case('yaml tag',f"token: !!str {S}")
case('yaml anchor',f"token: &tok {S}")
case('yaml env list',f"env:\n- name: HF_TOKEN\n  value: {S}")
case('k8s secret data',f"data:\n  api-key: {base64.b64encode(S.encode()).decode()}",base64.b64encode(S.encode()).decode())
case('yaml list',f"authorized_ids:\n  - {S}\n  - other")
case('yaml quoted key',f"\"api-key\": '{S}'")
case('json multi',f'{{\n  "api_key":\n    "{S}"\n}}')
case('json array pair',f'["Authorization", "Bearer {S}"]')
case('har header',f'{{"name": "Authorization", "value": "Bearer {S}"}}')
case('har cookie',f'{{"name": "session", "value": "{S}", "httpOnly": true}}')
case('har querystring',f'{{"name":"auth_id","value":"{S}"}}')
case('curl -v',f"> GET /api HTTP/1.1\n> kyutai-api-key: {S}\n> Authorization: Bearer {S}")
case('curl -v basic',f"* Server auth using Basic with user 'bob'\n> Authorization: Basic {BASIC}",BASIC)
case('curl trace',f"0000: Authorization: Bearer {S}")
case('curl -H',f"curl -H 'X-Api-Key: {S}' https://x")
case('curl -H nospace',f'curl -H"Authorization:Bearer {S}" https://x')
case('curl --oauth2',f"curl --oauth2-bearer {S} https://x")
case('curl -b',f"curl -b 'sid={S}' https://x")
case('curl --cookie',f"curl --cookie sid={S} https://x")
case('curl -d',f"curl -d 'grant_type=client_credentials&client_secret={S}'")
case('httpie',f"http GET :8080/api kyutai-api-key:{S}")
case('httpie -a',f"http -a bob:{P} :8080/x",P)
case('httpie dump',f"kyutai-api-key: {S}")
case('wget',f"wget --password={P} --user=bob https://x",P)
case('wget header',f"wget --header='PRIVATE-TOKEN: {S}' x")
case('wireshark hex',"0000  " + " ".join(f"{b:02x}" for b in f"token={S}".encode()[:16])+"   "+f"token={S}"[:16])
case('wireshark tree',f"    Authorization: Bearer {S}\\r\\n")
case('wireshark follow',f"[Full request URI: http://gpu:8080/api/asr-streaming?auth_id={S}]")
case('wireshark header value',f"Hypertext Transfer Protocol\n    kyutai-api-key: {S}\\r\\n")
case('tshark fields',f"http.authorization == \"Bearer {S}\"")
case('nginx log',f'203.0.113.9 - bob [15/Nov/2025:08:39:03 +0000] "GET /api/asr-streaming?auth_id={S} HTTP/1.1" 101 0',S,'203.0.113.9')
case('loki logfmt',f'ts=2025-11-15T08:39:03Z level=info msg="connect" api_key={S}')
case('loki labels',f'{{app="stt", token="{S}"}} line')
case('loki json',json.dumps({"streams":[{"stream":{"app":"stt"},"values":[["1763195943595169000",f'auth_id: Some("{S}")']]}]}))
case('datadog',json.dumps({"message":f"auth_id={S}","ddtags":f"env:prod,api_key:{S}"}))
case('datadog tags',f"tags: env:prod,token:{S},x:y")
case('vector',json.dumps({"file":"/var/log/x","message":json.dumps({"fields":{"auth_id":S}})}))
case('fluentbit',f'[0] kube.stt: [[1763195943.595, {{}}], {{"log"=>"auth_id={S}"}}]')
case('ruby hash',f'{{"log"=>"x", "api_key"=>"{S}"}}')
case('ruby sym',f'{{:api_key=>"{S}", api_token: "{S}"}}')
case('logstash',f'"api_key" => "{S}"')
case('go struct',f'{{APIKey:{S} Name:x}}')
case('go %+v',f'&{{Token:{S} Expiry:0}}')
case('go %#v',f'main.Config{{APIKey:"{S}", Host:"x"}}')
case('go http header',f'map[Authorization:[Bearer {S}] X-Api-Key:[{S}]]')
case('python dict',f"{{'Authorization': 'Bearer {S}', 'X': 1}}")
case('python bytes hdr',f"(b'authorization', b'Bearer {S}')")
case('python repr obj',f"Config(api_key='{S}', host='x')")
case('python environ',f"environ({{'HF_TOKEN': '{S}'}})")
case('python f=',f"api_key='{S}'")
case('pydantic err',f"input_value={{'api_key': '{S}'}}, input_type=dict")
case('rust headers',f'{{"kyutai-api-key": "{S}", "host": "x"}}')
case('rust Some',f'auth_id: Some(\n    "{S}",\n)')
case('rust HeaderMap',f'("authorization", Sensitive), ("kyutai-api-key", "{S}")')
case('java map',f"{{api_key={S}, host=x}}")
case('java props',f"spring.datasource.password={P}",P)
case('c# conn',f"Server=db;User Id=sa;Password={P};Encrypt=true",P)
case('odbc',f"Driver={{x}};UID=sa;PWD={P};",P)
case('jdbc',f"jdbc:postgresql://db/x?user=bob&password={P}",P)
case('mysql',f"mysql -u root -p{P} db",P)
case('mysql url',f"mysql://root:{P}@db/x",P)
case('redis url',f"redis://:{P}@cache:6379/0",P)
case('psql env',f"PGPASSWORD={P} psql -h db",P)
case('sshpass',f"sshpass -p '{P}' ssh bob@host",P)
case('sshpass -p',f"sshpass -p {P} ssh host",P)
case('htpasswd',f"htpasswd -b file bob {P}",P)
case('openssl',f"openssl enc -k {P} -in x -pass pass:{P}",P)
case('git remote',f"https://oauth2:{S}@gitlab.com/x.git")
case('git extraheader',f"http.https://github.com/.extraheader=AUTHORIZATION: basic {base64.b64encode(b'x-access-token:'+S.encode()).decode()}",base64.b64encode(b'x-access-token:'+S.encode()).decode())
case('npmrc',f"//packages.example/:_authToken={S}")
case('npmrc auth',f"_auth={BASIC}",BASIC)
case('pip conf',f"proxy = https://bob:{P}@proxy.example:3128",P)
case('pypirc',f"[pypi]\nusername = __token__\npassword = {S}")
case('netrc',f"machine x\nlogin bob\npassword {P}",P)
case('html pasted',f"<td>api_key</td><td>{S}</td>")
case('html input',f'<input type="hidden" name="csrf_token" value="{S}">')
case('html meta',f'<meta name="csrf-token" content="{S}">')
case('html dl',f"<dt>Authorization</dt><dd>Bearer {S}</dd>")
case('xml',f"<apiKey>{S}</apiKey>")
case('xml attr',f'<add key="ApiKey" value="{S}"/>')
case('xml ns',f"<ns:password>{P}</ns:password>",P)
case('plist',f"<key>api_key</key>\n<string>{S}</string>")
case('markdown table',f"| api_key | {S} |")
case('markdown bold',f"**API key:** {S}")
case('markdown code',f"**token**: `{S}`")
case('markdown link',f"[open](http://gpu:8080/?auth_id={S})")
case('md italic',f"*password*: {P}",P)
case('rst',f":token: {S}")
case('tsv',f"api_key\t{S}")
case('env export -p',f'declare -x HF_TOKEN="{S}"')
case('env set',f"HF_TOKEN={S}")
case('fish',f"set -gx HF_TOKEN {S}")
case('csh',f"setenv HF_TOKEN {S}")
case('zsh typeset',f"typeset -x HF_TOKEN={S}")
case('cmd set',f"set HF_TOKEN={S}")
case('proc environ',f"PATH=/bin\0HF_TOKEN={S}\0HOME=/root")
case('systemd show',f"Environment=HF_TOKEN={S} X=1")
case('systemd unit',f'Environment="HF_TOKEN={S}"')
case('ps aux',f"root 1 python serve.py --api-key {S} --port 1")
case('ps --flag=',f"serve --authToken={S}")
case('argv list',f"['serve', '--api-key', '{S}']")
case('argv json',f'"args": ["--api-key", "{S}"]')
case('argv multi',f'args:\n  - --api-key\n  - {S}')
case('strace',f'execve("/bin/x", ["x", "--token", "{S}"], 0x7ff)')
case('strace write',f'write(3, "Authorization: Bearer {S}\\r\\n", 40) = 40')
case('strace read split',f'sendto(5, "GET / HTTP/1.1\\r\\nkyutai-api-key: {S}\\r\\n"..., 99)')
case('tmux wide',f"│ token={S} │")
case('less -R',f"\x1b[7mESC\x1b[27m[3mauth_id\x1b[7mESC\x1b[27m[0m={S}")
case('less ESC literal',f"ESC[3mauth_idESC[0mESC[2m=ESC[0m{S}")
case('script typed bs',f"export TOKEN={S[:10]}X\b \b{S[10:]}")
case('script bs',f"TOKEN={S[:10]}Q\b{S[10:]}",S)
case('asciinema v2',json.dumps([1.5,"o",f"\u001b[1mexport\u001b[0m HF_TOKEN={S}\r\n"]))
case('asciinema typed',"\n".join(json.dumps([1.0+i,"o",ch]) for i,ch in enumerate(f"HF_TOKEN={S}")))
case('zsh highlight',"\x1b[4mexport\x1b[24m "+"".join(f"{ch}\x1b[K" for ch in f"HF_TOKEN={S}"))
case('bracketed paste',f"\x1b[?2004hHF_TOKEN=\x1b[200~{S}\x1b[201~\x1b[?2004l")
case('screen bce',f"HF_TOKEN=\x1b[38;5;1m{S[:8]}\x1b[m\x1b[38;5;1m{S[8:]}\x1b[m")
case('base64 basic in url',f"/x?authorization=Basic%20{quote(BASIC)}",BASIC)
case('websocket proto',f"sec-websocket-protocol: bearer, {S}")
case('grpc meta',f"metadata: (('x-api-key', '{S}'),)")
case('otel attr',f'http.request.header.authorization=["Bearer {S}"]')
case('otel attr2',f'"http.request.header.x_api_key": ["{S}"]')
case('otel kv',json.dumps({"key":"auth_id","value":{"stringValue":S}}))
case('dynamodb',json.dumps({"api_key":{"S":S}}))
case('sql alter',f"ALTER USER bob WITH PASSWORD '{P}';",P)
case('sql identified',f"CREATE USER bob IDENTIFIED BY '{P}'",P)
case('german','Passwort: '+P,P)
case('french','mot de passe : '+P,P)
case('password is',f"the password is {P}",P)
case('token is',f"Your token is: {S}")
case('using token',f"using token {S}")
case('with key',f"authenticated with API key '{S}'")
case('invalid key',f"Incorrect API key provided: {S}.")
case('invalid token paren',f"invalid token ({S})")
case('otp',f"otp={S}")
case('passcode',f"passcode: {S}")
case('jwt split',f"Set-Cookie: s={S}; Path=/")
case('proxy auth',f"Proxy-Authorization: Basic {BASIC}",BASIC)
case('digest',f'Authorization: Digest username="bob", response="{S}"')
case('sigv4',f"Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20251115, Signature={S}")
case('ansible',f"ansible_password: {P}",P)
case('ansible become',f"ansible_become_pass: {P}",P)
case('vault kv',f"Key          Value\n---          -----\npassword     {P}",P)
case('vault login',f"token                {S}")
case('aws cli table',f"|  SecretAccessKey|  {'a1B2'*10}  |",'a1B2'*10)
case('gcloud',f"access_token: ya29.{S}{S}",f"ya29.{S}{S}")
case('azure table',f"AccountKey={S};EndpointSuffix=core")
case('caesar',f"X-Amz-Security-Token={S}&X")
case('double url',f"q={quote(quote('token='+S,safe=''),safe='')}")
case('quoted printable',f"token=3D{S}=\n")
case('utf16 spaced',"\0".join(f"token={S}"))
case('json unicode all',"".join(f"\\u{ord(ch):04x}" for ch in f"token={S}"))
case('spaced letters'," ".join(f"password={P}"),P)
# fmt: on


def assert_gone(text: str, secrets: Sequence[str]) -> None:
    """No secret stays, redacting again changes nothing, and the gate finds nothing more."""
    once = redact(text.encode(), KEY).data
    assert not [secret for secret in secrets if secret.encode() in once]
    assert redact(once, KEY).data == once
    assert scan(once) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_no_secret_stays_in_a_dump(name: str) -> None:
    assert_gone(*CASES[name])


PRINTERS = {**OBJECTS, **FLAT}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRINTERS if name not in UNCLEAR])
def test_no_printer_shows_an_everyday_secret(name: str) -> None:
    """Whatever the name and place of the secret, in an object, an environment, headers or rows."""
    for sample in samples(name, PRINTERS[name], EVERYDAY, 12, random.Random(name)):
        once = redact(sample.text.encode(), KEY).data
        left = [part for part in sample.parts if part.encode() in once]
        assert not left, f"{sample.text}\n---\n{once.decode()}"
        assert redact(once, KEY).data == once


@pytest.mark.slow
def test_passwords_of_signs_are_found_by_nearly_every_printer() -> None:
    """Quotes, brackets, blanks and separators in a value may end it early: 99 in 100 are whole."""
    made = [
        sample
        for name, printer in PRINTERS.items()
        if name not in UNCLEAR
        for sample in samples(name, printer, AWKWARD, 12, random.Random(name))
    ]
    leaks = [
        sample
        for sample in made
        if any(part.encode() in redact(sample.text.encode(), KEY).data for part in sample.parts)
    ]
    assert len(leaks) * 100 < len(made), [sample.text for sample in leaks]


CLEAN = [
    "sampled text token text_token=5990",
    "the token is expired",
    "no password is needed here",
    "| token | what it is |",
    "| key | value |",
    "ENV PATH /usr/bin:/bin",
    "set -e",
    "<key>name</key>",
    "curl -b cookies.txt https://example.org/",
    "docker login ghcr.io",
    "token embedding of 2048 values",
    "secret sauce 2025-11-15",
    "loading key model.layers.0.self_attn.q_proj.weight",
    "password   required",
    "invalid token (expected a string)",
    "2025-05-09 07:29:24 status installed python3-jwt:all 2.6.0-1",
    "* agent/findkey.c (write_private_key): Fix condition.",
    '<a href="#Top" accesskey="u" rel="up">Top</a>, see <h2>2 Basic Elements</h2>',
    "f'kyutai-api-key: {api_key}', password=%s, secret: ...",
    "gpg: Fix key listing --with-secret if a pattern is given",
    '{"a": "", "b": "x", "c": ""}',
]


@pytest.mark.parametrize("line", CLEAN)
def test_words_about_secrets_are_left_alone(line: str) -> None:
    """A line that speaks of tokens and passwords without one is not touched."""
    assert redact(line.encode(), KEY).data == line.encode()
