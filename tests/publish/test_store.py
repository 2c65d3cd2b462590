"""How a store is named, and which options it takes."""

from pathlib import Path

import pytest

from dsmops.errors import InputError
from dsmops.publish.folder import FolderStore
from dsmops.publish.store import StoreOptions
from dsmops.publish.stores import join_url, open_store


@pytest.mark.parametrize(
    ("bucket", "prefix", "url"),
    [
        ("logs", "", "s3://logs"),
        ("logs", "stt/host-1", "s3://logs/stt/host-1"),
        ("logs", "/stt//host-1/", "s3://logs/stt/host-1"),
        ("s3://logs/", "stt", "s3://logs/stt"),
        ("file:/mnt/share", "stt", "file:/mnt/share/stt"),
        ("file:share", "", "file:share"),
    ],
)
def test_bucket_and_prefix_make_one_name(bucket: str, prefix: str, url: str) -> None:
    """A bare bucket is S3; surrounding and doubled slashes of a prefix mean nothing."""
    assert join_url(bucket, prefix) == url


@pytest.mark.parametrize("bucket", ["/mnt/share", "~/share", "./share", "../share"])
def test_a_path_is_no_bucket(bucket: str) -> None:
    """Not even one whose first folder could be a bucket's name: logs must not go to the owner of
    that bucket.
    """
    with pytest.raises(InputError, match="is a path") as caught:
        join_url(bucket, "stt")
    assert caught.value.hint == f"Write a folder as file:{bucket}"


@pytest.mark.parametrize("prefix", ["..", "a/../b", "./a"])
def test_prefixes_do_not_climb(prefix: str) -> None:
    """A prefix with relative segments is an error: on a folder it would lead out."""
    with pytest.raises(InputError, match="relative"):
        join_url("file:share", prefix)


def test_prefixes_of_a_bucket_url_are_tidied_and_do_not_climb() -> None:
    """A prefix written behind the bucket is held to the same rules as `--prefix`."""
    assert open_store("s3://logs//a//b/").url == "s3://logs/a/b"
    with pytest.raises(InputError, match="relative"):
        open_store("s3://logs/a/../b")


@pytest.mark.parametrize("prefix", ["new\nline", "\udcff", "\x1b[2J"])
def test_prefixes_can_be_seen(prefix: str) -> None:
    """Control characters and bytes that are not UTF-8 are refused: servers do not agree on them."""
    with pytest.raises(InputError, match="cannot be printed"):
        join_url("logs", prefix)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///srv/logs",
        "s3://No_Such",
        "s3://a",
        "/mnt/share",
        "share",
        "http://x",
        "file:",
        "file://host/x",
    ],
)
def test_what_names_no_store(url: str) -> None:
    """Impossible buckets, bare paths, other schemes and foreign hosts are refused with a hint on
    how to write it.
    """
    with pytest.raises(InputError) as caught:
        open_store(url)
    assert caught.value.hint


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}"])
def test_folders_by_every_spelling(form: str, tmp_path: Path) -> None:
    """Each way to write a folder names the same one, spaces and percent signs included."""
    folder = tmp_path / "my logs"
    store = open_store(form.format(str(folder).replace(" ", "%20") if "//" in form else folder))
    assert store.url == f"file://{folder}"


def test_a_folder_s_url_names_that_folder(tmp_path: Path) -> None:
    """What a report shows can be given back, percent signs included."""
    folder = tmp_path / "100%20 ü"
    store = open_store(open_store(f"file:{folder}").url)
    assert isinstance(store, FolderStore)
    assert store.folder == folder


@pytest.mark.parametrize("below", ["", "/sub"])
def test_a_file_is_no_store(tmp_path: Path, below: str) -> None:
    """A file in the place of the folder is said on the first look, not after a dry run that
    promised success.
    """
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        list(open_store(f"file:{tmp_path}/file{below}").list(""))


def test_only_s3_options_are_told(tmp_path: Path) -> None:
    """The error names the options that a folder does not have, as they are typed."""
    with pytest.raises(InputError, match="--endpoint-url, --sse"):
        open_store(f"file:{tmp_path}", StoreOptions(endpoint_url="http://x", sse="AES256"))
