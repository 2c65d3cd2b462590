"""What is particular to S3: headers, errors, limits, and proof that the right bytes arrived."""

import hashlib
import json
import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import (
    CredentialsError,
    DsmopsError,
    InputError,
    IntegrityError,
    MissingObjectError,
    RemoteError,
    TransferError,
)
from dsmops.operations.publishing import (
    PublishRequest,
    PullRequest,
    RedactionCheck,
    publish_logs,
    pull_logs,
)
from dsmops.publish.s3.store import MAX_PARTS, S3Store, part_size
from dsmops.publish.store import StoreOptions
from dsmops.publish.stores import open_store
from tests.publish.conftest import SMALLEST_PART_BYTES, Place, s3_place
from tests.support.relay import Fault, Relay
from tests.support.s3_fronts import b2, r2
from tests.support.s3_servers import S3Server


@pytest.fixture
def place(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    return s3_place(moto, monkeypatch)


@pytest.fixture
def relay(moto: S3Server) -> Iterator[Relay]:
    with Relay(moto.url) as relay:
        yield relay


def put(place: Place, data: bytes = b"content", key: str = "bodies/a", **options: Any) -> None:
    place.open(**options).put(
        data, key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)
    )


@pytest.mark.slow
def test_uploads_carry_their_digest_and_nothing_uncalled_for(place: Place, relay: Relay) -> None:
    """A put sends its SHA-256 in a header, no trailer and no second checksum, and neither ACL nor
    encryption nor class by itself.
    """
    put(place, endpoint_url=relay.url)
    (request,) = relay.seen
    assert (
        request.headers["x-amz-checksum-sha256"]
        == b64encode(hashlib.sha256(b"content").digest()).decode()
    )
    sent = {name for name in request.headers if name.startswith("x-amz-")}
    assert sent <= {
        "x-amz-checksum-sha256",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-sdk-checksum-algorithm",
    }
    assert request.headers["content-type"] == "text/plain; charset=utf-8"
    assert "chunked" not in request.headers.get("content-encoding", "")


@pytest.mark.parametrize("size", [10, SMALLEST_PART_BYTES + 1], ids=["whole", "in parts"])
def test_what_is_asked_for_is_passed_through(place: Place, relay: Relay, size: int) -> None:
    """ACL, encryption, key and storage class go with the request that creates the object."""
    wanted = {
        "acl": "bucket-owner-full-control",
        "sse": "aws:kms",
        "sse_kms_key_id": "key-1",
        "storage_class": "STANDARD_IA",
    }
    put(place, b"x" * size, endpoint_url=relay.url, **wanted)
    headers = relay.seen[0].headers
    assert headers["x-amz-acl"] == "bucket-owner-full-control"
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    assert headers["x-amz-storage-class"] == "STANDARD_IA"


def test_an_etag_that_proves_nothing_is_made_good_by_reading_back(
    place: Place, relay: Relay
) -> None:
    """Where the ETag is not an MD5 (KMS), the object is read back once, and wrong bytes are still
    noticed.
    """
    relay.fault = lambda request: Fault("other_etag") if request.method == "PUT" else None
    put(place, endpoint_url=relay.url)
    assert [request.method for request in relay.seen] == ["PUT", "GET"]
    relay.fault = lambda request: Fault("garble_request") if request.method == "PUT" else None
    with pytest.raises(IntegrityError, match="other bytes"):
        put(place, endpoint_url=relay.url)


ERRORS = [
    (403, "AccessDenied", CredentialsError, "s3-setup"),
    (403, "InvalidAccessKeyId", CredentialsError, "AWS_ACCESS_KEY_ID"),
    (403, "RequestTimeTooSkewed", CredentialsError, "clock"),
    (400, "ExpiredToken", CredentialsError, "AWS_SESSION_TOKEN"),
    (404, "NoSuchBucket", InputError, "--bucket"),
    (400, "AccessControlListNotSupported", InputError, "--acl"),
    (400, "InvalidStorageClass", InputError, "--storage-class"),
    (400, "KeyTooLongError", InputError, "--prefix"),
    (400, "AuthorizationHeaderMalformed", InputError, "--region"),
    (404, "NoSuchKey", MissingObjectError, "--force"),
    (400, "BadDigest", IntegrityError, "network"),
    (503, "SlowDown", TransferError, "again"),
    (501, "NotImplemented", InputError, "would refuse it again"),
    (418, "NeverHeardOf", RemoteError, "would refuse this again"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"), ERRORS, ids=[error[1] for error in ERRORS]
)
def test_each_error_of_the_store_is_told_in_our_words(
    place: Place, relay: Relay, status: int, code: str, kind: type[DsmopsError], hint: str
) -> None:
    """The class says whose turn it is, the message has the store, the key and the server's words,
    the hint says what to do.
    """
    relay.fault = lambda _request: Fault("status", status, code)
    with pytest.raises(kind) as caught:
        put(place, endpoint_url=relay.url, attempts=1)
    assert type(caught.value) is kind
    assert caught.value.message.startswith(f"{place.url}/bodies/a: ")
    assert f"{code}: as told" in caught.value.message
    assert hint in caught.value.hint


def test_a_bucket_that_does_not_exist(place: Place) -> None:
    """A real server's answer for a missing bucket is an input error."""
    assert place.server is not None
    with pytest.raises(InputError, match="NoSuchBucket"):
        list(
            open_store(
                "s3://no-such-bucket-here", StoreOptions(endpoint_url=place.server.url)
            ).list("")
        )


def test_no_credentials_at_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the error says how to give them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(CredentialsError, match="credentials") as caught:
        put(place)
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_a_profile_that_does_not_exist(place: Place) -> None:
    """A mistyped profile is reported before anything is sent."""
    with pytest.raises(CredentialsError, match="no-such"):
        put(place, profile="no-such")


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "not a url", "http://"])
def test_an_endpoint_that_is_no_url(place: Place, endpoint: str) -> None:
    """A malformed endpoint is an input error that names the option."""
    with pytest.raises(InputError) as caught:
        put(place, endpoint_url=endpoint)
    assert "--endpoint-url" in caught.value.hint


@pytest.mark.parametrize(
    "endpoint", ["htp://127.0.0.1:9", "http://127.0.0.1:99999", "http://127.0.0.1:9?x=1"]
)
def test_an_endpoint_that_only_looks_like_a_url(place: Place, endpoint: str) -> None:
    """What the client library notices late is the same input error."""
    with pytest.raises(InputError) as caught:
        list(place.open(endpoint_url=endpoint).list(""))
    assert "--endpoint-url" in caught.value.hint


@contextmanager
def answering(status: int, body: str, **headers: str) -> Iterator[str]:
    """A server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_HEAD = do_GET  # noqa: N815 likewise

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


TRUNCATED = "<ListBucketResult><IsTruncated>true</IsTruncated>{}</ListBucketResult>"
STRANGERS = {
    "a web page": (200, "<html>Sign in</html>"),
    "nothing": (200, ""),
    "a page without an end": (200, TRUNCATED.format("")),
    "a circle": (200, TRUNCATED.format("<NextContinuationToken>x</NextContinuationToken>")),
    "an object without a size": (
        200,
        "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
    ),
    "a page that is not there": (404, "<html>Not here</html>"),
}


@pytest.mark.parametrize("answer", STRANGERS.values(), ids=STRANGERS)
def test_what_is_no_s3_server_is_not_an_empty_bucket(place: Place, answer: tuple[int, str]) -> None:
    """A console's port, a captive portal, a broken listing: an input error, where an empty listing
    would say that nothing is published.
    """
    with answering(*answer) as url, pytest.raises(InputError) as caught:
        list(place.open(endpoint_url=url, attempts=1).list(""))
    assert "--endpoint-url" in caught.value.hint


def test_a_server_that_redirects_is_named(place: Place) -> None:
    """http where https is wanted: the client library would ask until its stack is full."""
    with (
        answering(302, "", Location="http://127.0.0.1:9/") as url,
        pytest.raises(InputError, match="redirects") as caught,
    ):
        list(place.open(endpoint_url=url, attempts=1).list(""))
    assert "https" in caught.value.hint


def test_refusals_without_a_known_code_are_refusals(place: Place) -> None:
    """Status 401 and 403 mean credentials, whatever word a server or a proxy has for it."""
    for status in (401, 403):
        with (
            answering(status, "<html>no</html>") as url,
            pytest.raises(CredentialsError, match=str(status)),
        ):
            list(place.open(endpoint_url=url, attempts=1).list(""))


def test_a_token_with_a_line_break_is_not_repeated(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A badly pasted credential is an input error that does not show it."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret-token\nsecret")
    with pytest.raises(InputError, match="line break") as caught:
        list(place.open(attempts=1).list(""))
    assert "secret" not in caught.value.message


def test_a_broken_aws_config_is_the_user_s_to_mend(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A config file that cannot be parsed is an input error with its name."""
    (tmp_path / "config").write_text("no [ section\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(InputError, match="config"):
        place.open()


def test_bytes_sent_again_are_counted_again(place: Place, relay: Relay) -> None:
    """The totals are what went over the network: a retry costs a request and its bytes."""
    relay.fault = lambda request: Fault("status", 503) if request.count == 1 else None
    store = place.open(endpoint_url=relay.url)
    store.put(
        b"x" * 1000, "bodies/a", sha256=hashlib.sha256(b"x" * 1000).hexdigest(), size_bytes=1000
    )
    assert (store.meter.usage().total_requests, store.meter.usage().sent_bytes) == (2, 2000)


def test_small_bodies_are_sent_at_once(place: Place, relay: Relay) -> None:
    """A small file costs one round trip; a large one waits for the server's word before its bytes
    go.
    """
    for size in (1000, 1 << 20):
        put(place, b"x" * size, endpoint_url=relay.url)
    assert ["expect" in request.headers for request in relay.seen] == [False, True]


def test_an_endpoint_where_nobody_listens(place: Place) -> None:
    """A refused connection is a transfer error with the address."""
    with pytest.raises(TransferError, match=r"127\.0\.0\.1:9/"):
        put(place, endpoint_url="http://127.0.0.1:9", attempts=1)


@pytest.mark.slow
def test_a_region_is_not_needed_for_a_custom_endpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not AWS works without any region set."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    put(place)


@given(st.integers(1, 5 << 40), st.integers(5 << 20, 5 << 30))
def test_part_sizes_keep_the_limits_of_s3(size: int, wanted: int) -> None:
    """Any object up to 5 TiB fits into 10,000 parts of the size chosen, which is never smaller than
    wanted.
    """
    part = part_size(size, wanted)
    assert part >= wanted
    assert -(-size // part) <= MAX_PARTS


RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
}


def test_the_policy_of_the_runbook_has_what_is_used_and_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All operations of a store need exactly the rights that runbooks/s3-setup.md gives to a
    publisher.
    """
    used: set[str] = set()
    counted = S3Store._count

    def note(self: S3Store, event_name: str, **event: Any) -> None:
        used.add(event_name.rpartition(".")[2])
        counted(self, event_name, **event)

    monkeypatch.setattr(S3Store, "_count", note)
    store = place.open()
    data = b"x" * (SMALLEST_PART_BYTES + 1)
    place.client.create_multipart_upload(Bucket=place.bucket, Key="some/prefix/bodies/half")
    for content in (b"x", data):
        store.put(
            content, "bodies/a", sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
        )
    store.get("bodies/a", lambda _: None, sha256=None)
    list(store.list(""))
    store.delete("bodies/a")
    store.abort_unfinished(datetime.now(UTC))
    (policy,) = re.findall(
        r"```json\n(.*?)```",
        (Path(__file__).parents[2] / "runbooks/s3-setup.md").read_text(),
        re.DOTALL,
    )
    actions = [statement["Action"] for statement in json.loads(policy)["Statement"]]
    granted = {
        action for group in actions for action in ([group] if isinstance(group, str) else group)
    }
    assert {RIGHTS[operation] for operation in used} == granted


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, SMALLEST_PART_BYTES + 1], ids=["whole", "in parts"])
@pytest.mark.parametrize(
    ("mode", "header"),
    [
        ("sha256", "x-amz-checksum-sha256"),
        ("crc32", "x-amz-checksum-crc32"),
        ("md5", "content-md5"),
        ("none", ""),
    ],
)
def test_each_checksum_mode_sends_its_own_header(
    place: Place, relay: Relay, size: int, mode: str, header: str
) -> None:
    """And no other; and in every mode wrong bytes in the store are noticed."""
    put(place, b"x" * size, endpoint_url=relay.url, checksum=mode)
    checksums = {
        name
        for request in relay.seen
        if request.method == "PUT"
        for name in request.headers
        if name == "content-md5" or name.startswith("x-amz-checksum-")
    }
    assert checksums == ({header} if header else set())
    if mode in ("none", "md5"):  # with the others moto notices itself
        relay.fault = lambda request: Fault("garble_request") if request.method == "PUT" else None
        with pytest.raises((IntegrityError, TransferError)):
            put(place, b"x" * size, endpoint_url=relay.url, checksum=mode)


def test_a_refused_checksum_is_remembered_for_the_endpoint(place: Place, relay: Relay) -> None:
    """The first run is refused once and goes on; later runs, and the same run, are not."""
    relay.fault = b2
    store = place.open(endpoint_url=relay.url)
    for key in ("a", "b"):
        store.put(b"x", key, sha256=hashlib.sha256(b"x").hexdigest(), size_bytes=1)
    refused = [request for request in relay.seen if b2(request)]
    assert (len(refused), len(relay.seen)) == (1, 3)
    put(place, endpoint_url=relay.url)
    assert len([request for request in relay.seen if b2(request)]) == 1
    assert relay.seen[-1].headers["content-md5"]


def test_a_checksum_that_was_asked_for_is_not_changed(place: Place, relay: Relay) -> None:
    """With `--checksum sha256` the refusal is an error that names the option."""
    relay.fault = b2
    with pytest.raises(InputError, match="Unsupported header") as caught:
        put(place, endpoint_url=relay.url, checksum="sha256")
    assert "--checksum sha256" in caught.value.hint


@pytest.mark.parametrize(
    ("front", "options", "named"),
    [
        (r2, {"acl": "private"}, "--acl"),
        (r2, {"sse": "AES256"}, "--sse"),
        (r2, {"requester_pays": True}, "--requester-pays"),
        (b2, {"storage_class": "GLACIER"}, "--storage-class"),
        (b2, {"sse": "aws:kms"}, "--sse"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_refusal_that_no_retry_cures_names_the_option(
    place: Place, relay: Relay, front: Any, options: dict[str, Any], named: str
) -> None:
    """The hint says which option to omit, not to run the command again."""
    relay.fault = front
    with pytest.raises(InputError) as caught:
        put(place, endpoint_url=relay.url, **options)
    assert named in caught.value.hint
    assert "again" not in caught.value.hint
    assert caught.value.code == "publish.refused"


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, SMALLEST_PART_BYTES + 1], ids=["whole", "in parts"])
def test_the_requester_pays_for_every_request(place: Place, relay: Relay, size: int) -> None:
    """Each request says so, those that list, read and delete too; without the option none does."""
    for wanted in (True, False):
        relay.seen.clear()
        store = place.open(endpoint_url=relay.url, requester_pays=wanted)
        data = b"x" * size
        for key in ("a", "b"):
            store.put(data, key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=size)
        store.get("a", lambda _: None, sha256=None)
        list(store.list(""))
        store.delete("a")
        store.abort_unfinished(datetime.now(UTC))
        payers = {request.headers.get("x-amz-request-payer") for request in relay.seen}
        assert payers == ({"requester"} if wanted else {None})


def test_a_bucket_with_object_lock_and_default_retention(place: Place, tmp_path: Path) -> None:
    """Such a bucket keeps every version: publishing, merging manifests and pulling work there."""
    place.client.create_bucket(Bucket="locked-logs", ObjectLockEnabledForBucket=True)
    place.client.put_object_lock_configuration(
        Bucket="locked-logs",
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )
    assert place.server is not None
    options = StoreOptions(endpoint_url=place.server.url)
    check = RedactionCheck(1, lambda _name, _stream: {})
    (tmp_path / "logs").mkdir()
    for name in ("log.a", "log.b"):
        (tmp_path / "logs" / name).write_text(name)
        report = publish_logs(
            PublishRequest("s3://locked-logs", tmp_path / "logs", options), check=check
        )
        assert report.counts["sent"] == 1, report.files
        assert report.exit_code == 0
    pulled = pull_logs(PullRequest("s3://locked-logs", tmp_path / "out", options))
    assert (pulled.counts["fetched"], pulled.usage.requests["get"]) == (2, 3)


def test_links_work_without_credentials(place: Place, relay: Relay) -> None:
    """A link of version 4, which every server takes, gives the bytes for the time asked."""
    relay.fault = b2
    store = place.open(endpoint_url=relay.url)
    store.put(b"x y", "a b", sha256=hashlib.sha256(b"x y").hexdigest(), size_bytes=3)
    link = store.link("a b", valid_s=3600)
    assert "X-Amz-Expires=3600" in link
    with urlopen(link) as answer:
        assert answer.read() == b"x y"


def test_the_way_to_a_store_can_be_told(place: Place) -> None:
    """Bucket, prefix, and the endpoint where it is not AWS; the region where it is."""
    assert place.server is not None
    assert place.open(requester_pays=True).options_to_reach() == (
        "--bucket",
        place.bucket,
        "--prefix",
        "some/prefix",
        "--endpoint-url",
        place.server.url,
        "--requester-pays",
    )
    on_aws = open_store("s3://logs", StoreOptions(region="eu-west-3"))
    assert on_aws.options_to_reach() == ("--bucket", "logs", "--region", "eu-west-3")


PROFILES = """
[profile sso]
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1
sso_account_id = 123456789012
sso_role_name = publisher

[profile session]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = publisher

[sso-session corp]
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1

[profile login]
login_session = arn:aws:iam::123456789012:user/me

[profile process]
credential_process = /bin/false

[profile program]
credential_process = /nowhere/program

[profile file]
credential_process = /etc/hostname

[profile token]
role_arn = arn:aws:iam::123456789012:role/publisher
web_identity_token_file = /nowhere/token

[profile nonsense]
credential_process = /bin/echo hello

[profile mfa]
role_arn = arn:aws:iam::123456789012:role/publisher
source_profile = keys
mfa_serial = arn:aws:iam::123456789012:mfa/me

[profile keys]
aws_access_key_id = AKIAEXAMPLE
aws_secret_access_key = secret

[profile lost]
role_arn = arn:aws:iam::123456789012:role/publisher
source_profile = nowhere

[profile circle]
role_arn = arn:aws:iam::123456789012:role/publisher
source_profile = circle2

[profile circle2]
role_arn = arn:aws:iam::123456789012:role/publisher
source_profile = circle

[profile empty]
region = us-east-1
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "fix"),
    [
        ("sso", "aws sso login --profile sso"),
        ("session", "aws sso login --profile session"),
        ("login", "aws login --profile login|botocore\\[crt\\]"),
        ("process", "credential_process of profile 'process'"),
        ("program", "credential_process of profile 'program'"),
        ("file", "credential_process of profile 'file'"),
        ("token", "web_identity_token_file and role_arn of profile 'token'"),
        ("nonsense", "credential_process of profile 'nonsense'"),
        ("mfa", "terminal"),
        ("lost", "source_profile and role_arn of profile 'lost'"),
        ("circle", "role_arn of profile 'circle'"),
        ("empty", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_credentials_that_fail_name_the_profile_and_the_fix(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str, fix: str
) -> None:
    """Exit code 4, by option and by AWS_PROFILE alike; nothing waits for an answer."""
    (tmp_path / "config").write_text(PROFILES)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr("dsmops.publish.s3.account._has_terminal", lambda: False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for options in ({"profile": profile}, {}):
        if not options:
            monkeypatch.setenv("AWS_PROFILE", profile)
        with pytest.raises(CredentialsError) as caught:
            list(place.open(**options).list(""))
        assert f"profile '{profile}'" in caught.value.message
        assert re.search(fix, caught.value.hint)
        assert "secret" not in caught.value.message + caught.value.hint


def test_a_small_put_after_the_first_skips_the_library(place: Place, relay: Relay) -> None:
    """The pattern of the first put is repeated for the next: same headers, a signature, no
    retry.
    """
    store = place.open(endpoint_url=relay.url, storage_class="STANDARD_IA")
    for key in ("a", "b c", "d.gz"):
        store.put(b"x", key, sha256=hashlib.sha256(b"x").hexdigest(), size_bytes=1)
    first, *others = relay.seen
    assert "amz-sdk-request" in first.headers
    for request in others:
        assert "amz-sdk-request" not in request.headers
        assert request.headers["x-amz-storage-class"] == "STANDARD_IA"
        assert request.headers["user-agent"] == first.headers["user-agent"]
        assert "x-amz-storage-class" in request.headers["authorization"]
    assert others[1].headers["content-type"] == "application/gzip"
    assert [item.key for item in store.list("")] == ["a", "b c", "d.gz"]


def test_a_small_put_that_fails_goes_through_the_library(place: Place, relay: Relay) -> None:
    """With its retries and its errors; after some failures in a row nothing else is tried."""
    store = place.open(endpoint_url=relay.url, attempts=2)
    sha256 = hashlib.sha256(b"x").hexdigest()
    store.put(b"x", "a", sha256=sha256, size_bytes=1)
    relay.fault = lambda request: (
        None if "amz-sdk-request" in request.headers else Fault("status", 500)
    )
    for index in range(5):
        store.put(b"x", f"b{index}", sha256=sha256, size_bytes=1)
    fast = [request for request in relay.seen if "amz-sdk-request" not in request.headers]
    assert len(fast) == 3
    assert len(list(store.list(""))) == 6
