"""Opens a store by its URL. The only file that knows which kinds of stores there are.

A new kind is one module with a function `open_store(url, options)`, one line in `_MODULES`, and one
parameter in `tests/publish/conftest.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from dsmops.errors import InputError
from dsmops.publish.store import ObjectStore, StoreOptions, path_segments

# Modules by URL scheme. Imported when needed: the S3 client library takes 0.1 s.
_MODULES = {
    "s3": "dsmops.publish.s3.store",
    "file": "dsmops.publish.folder",
}


def open_store(url: str, options: StoreOptions | None = None) -> ObjectStore:
    """Return the store that `url` names: `s3://BUCKET[/PREFIX]` or `file:FOLDER`.

    Nothing is contacted or created yet.

    Raises:
        InputError: the URL names no known kind of store, the name is malformed, or this kind does
            not have one of the options.
    """
    scheme, colon, _ = url.partition(":")
    module = _MODULES.get(scheme.lower()) if colon else None
    if module is None:
        raise InputError(
            f"{url!r} is not the name of a store",
            hint="Write a bucket as s3://NAME/PREFIX and a folder as file:FOLDER.",
            code="publish.store",
        )
    return cast(ObjectStore, import_module(module).open_store(url, options or StoreOptions()))


def join_url(bucket: str, prefix: str) -> str:
    """Return the store URL of a `--bucket` (a bare name, `s3://` or `file:`) and a `--prefix`.

    Raises:
        InputError: `bucket` is a path, or the prefix has parts that no prefix may have.
    """
    if bucket.startswith(("/", "~", ".")):
        raise InputError(
            f"{bucket!r} is a path, not the name of a bucket",
            hint=f"Write a folder as file:{bucket}",
            code="publish.bucket",
        )
    base = bucket if ":" in bucket else f"s3://{bucket}"
    return "/".join([base.rstrip("/"), *path_segments(prefix)])
