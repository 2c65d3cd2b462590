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
from dsmops.publish.s3.store import MAX_PARTS, S3Store, part_size
from dsmops.publish.store import StoreOptions
from dsmops.publish.stores import open_store
from tests.publish.conftest import SMALLEST_PART_BYTES, Place, s3_place
from tests.support.relay import Fault, Relay
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


def test_uploads_carry_their_digest_and_nothing_uncalled_for(place: Place, relay: Relay) -> None:
    """A put sends its SHA-256 in a header, no trailer and no second checksum, and neither ACL nor encryption nor class by itself."""
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
    """Where the ETag is no MD5 (KMS), the object is read back once, and wrong bytes are still noticed."""
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


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"), ERRORS, ids=[error[1] for error in ERRORS]
)
def test_each_error_of_the_store_is_told_in_our_words(
    place: Place, relay: Relay, status: int, code: str, kind: type[DsmopsError], hint: str
) -> None:
    """The class says whose turn it is, the message has the store, the key and the server's words, the hint says what to do."""
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
    """A mistyped profile is told before anything is sent."""
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
    """A console's port, a captive portal, a broken listing: an input error, where an empty listing would say that nothing is published."""
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
    """A small file costs one round trip; a large one waits for the server's word before its bytes go."""
    for size in (1000, 1 << 20):
        put(place, b"x" * size, endpoint_url=relay.url)
    assert ["expect" in request.headers for request in relay.seen] == [False, True]


def test_an_endpoint_where_nobody_listens(place: Place) -> None:
    """A refused connection is a transfer error with the address."""
    with pytest.raises(TransferError, match=r"127\.0\.0\.1:9/"):
        put(place, endpoint_url="http://127.0.0.1:9", attempts=1)


def test_a_region_is_not_needed_for_a_custom_endpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not AWS works without any region set."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    put(place)


@given(st.integers(1, 5 << 40), st.integers(5 << 20, 5 << 30))
def test_part_sizes_keep_the_limits_of_s3(size: int, wanted: int) -> None:
    """Any object up to 5 TiB fits into 10,000 parts of the size chosen, which is never smaller than wanted."""
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
    """All operations of a store need exactly the rights that runbooks/s3-setup.md gives to a publisher."""
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
