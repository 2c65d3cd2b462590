"""Servers that speak a dialect of S3: a relay before a real server, with the refusals of a product.

Each front refuses what the product documents as unsupported, in the words and with the status that
users of the product report.

Sources: "S3-Compatible API, Unsupported Features" of Backblaze B2, and its answers in
home-assistant/core#143995 and iterate-ch/cyberduck#16107. "S3 API compatibility" of Cloudflare R2,
and its answers in cloudflare/cloudflare-docs#4508, #13132 and #19236; s3fs-fuse/s3fs-fuse#2095 for
ETags of objects in parts. R2 takes single checksums today; the front keeps to its answers of 2025,
because gateways of that age are still in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.relay import Fault, Relay, Request
from tests.support.s3_servers import S3Server

_CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")


def b2(request: Request) -> Fault | None:
    """Backblaze B2: no checksums, no KMS, one storage class, no version 2 signatures."""
    for name, value in request.headers.items():
        if name.startswith(_CHECKSUMS):
            words = f"Unsupported header '{name}' received for this API call."
            return Fault("status", 400, "InvalidArgument", words)
        if name == "x-amz-server-side-encryption" and value != "AES256":
            return Fault("status", 400, "InvalidArgument", "Unsupported encryption algorithm")
        if name == "x-amz-storage-class" and value != "STANDARD":
            return Fault("status", 400, "InvalidStorageClass", "Unsupported storage class")
    if "AWSAccessKeyId=" in request.path:
        return Fault("status", 400, "InvalidRequest", "The V2 signature is not supported.")
    return None


def r2(request: Request) -> Fault | None:
    """Cloudflare R2: no checksums, ACLs, encryption or payer; its own ETag for objects in parts."""
    refused = (*_CHECKSUMS, "x-amz-acl", "x-amz-server-side-encryption", "x-amz-request-payer")
    for name, value in request.headers.items():
        if name.startswith(refused):
            words = f"Header '{name}' with value '{value}' not implemented"
            return Fault("status", 501, "NotImplemented", words)
    if request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
        return Fault("status", 501, "NotImplemented", "STREAMING payloads not implemented")
    if request.method == "POST" and "uploadId=" in request.path:
        return Fault("other_etag")
    return None


def silent_parts(request: Request) -> Fault | None:
    """A gateway that answers an uploaded part without its ETag."""
    return Fault("no_etag") if "partNumber=" in request.path else None


FRONTS = {"b2": b2, "r2": r2, "no ETag of parts": silent_parts}


@contextmanager
def front(kind: str, server: S3Server) -> Iterator[S3Server]:
    """Run the front `kind` before a server."""
    with Relay(server.url) as relay:
        relay.fault = FRONTS[kind]
        yield S3Server(kind, relay.url, server.env, behind=server.url)
