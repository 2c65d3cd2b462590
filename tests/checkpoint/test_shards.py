"""Opening checkpoints: files, folders, indexes, cache symlinks; what is not a checkpoint is refused
with the reason.
"""

import json
import os
import pickle
from pathlib import Path

import pytest

from dsmops.checkpoint import open_checkpoint, read_header
from dsmops.errors import CheckpointError, DsmopsError, HeaderError, InputError, SourceError
from tests.support.checkpoints import Stored, bf16, file_bytes, write_file, write_sharded

A: dict[str, Stored] = {"a": bf16(1, 2)}
B: dict[str, Stored] = {"b": bf16(3), "c": ("U8", (3,), b"xyz")}
INDEX = "model.safetensors.index.json"


def test_a_single_file_is_a_checkpoint_of_one_shard(tmp_path: Path) -> None:
    """Its tensors are known by name, in file order, with their place in the file."""
    path = write_file(tmp_path / "x.safetensors", {**A, **B})
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["a", "b", "c"]
    assert checkpoint.index is None
    shard = checkpoint.shard_of["c"]
    assert path.read_bytes()[shard.offset_of(checkpoint.tensors["c"]) :] == b"xyz"
    assert checkpoint.nbytes == path.stat().st_size
    assert read_header(path) == shard.header


@pytest.mark.parametrize(
    "names",
    [
        ["model.safetensors", "other.safetensors"],
        ["odd.safetensors", "notes.txt", ".hidden.safetensors"],
    ],
)
def test_a_folder_stands_for_the_file_in_it(tmp_path: Path, names: list[str]) -> None:
    """`model.safetensors` is taken before others, else the only `.safetensors` file; hidden files
    do not count.
    """
    for name in names:
        write_file(tmp_path / name, A)
    assert open_checkpoint(tmp_path).shards[0].name == names[0]


@pytest.mark.parametrize("chosen", ["", INDEX])
def test_an_index_joins_its_shards(tmp_path: Path, chosen: str) -> None:
    """A folder with an index, or the index itself, opens all shards, in subfolders too."""
    write_sharded(tmp_path, {"one.safetensors": A, "sub/two.safetensors": B})
    checkpoint = open_checkpoint(tmp_path / chosen)
    assert {name: checkpoint.shard_of[name].name for name in checkpoint.tensors} == {
        "a": "one.safetensors",
        "b": "sub/two.safetensors",
        "c": "sub/two.safetensors",
    }
    assert checkpoint.index is not None
    assert checkpoint.index.metadata["total_size"] == 9


def test_the_symlinks_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    """A snapshot's links into the blobs open like files; a blob's name alone is not a digest."""
    digest = "ab" * 32
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    write_file(blobs / digest, A)
    write_file(blobs / "short", B)
    (snapshot / "one.safetensors").symlink_to(f"../../blobs/{digest}")
    (snapshot / "two.safetensors").symlink_to("../../blobs/short")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}}
    (blobs / "index").write_text(json.dumps(index))
    (snapshot / INDEX).symlink_to("../../blobs/index")
    first, second = open_checkpoint(snapshot).shards
    assert (first.known_sha256, second.known_sha256) == (None, None)


@pytest.mark.parametrize(
    "entry",
    [
        "/etc/one.safetensors",
        "../one.safetensors",
        "sub/../../one.safetensors",
        "",
        "one.bin",
        "nul\0.safetensors",
    ],
)
def test_an_index_entry_outside_its_folder_is_refused(tmp_path: Path, entry: str) -> None:
    """Absolute and climbing entries, and those that are not .safetensors files, name the tensor at
    fault.
    """
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a.weight": entry}}))
    with pytest.raises(CheckpointError, match=r"a\.weight") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.code == "checkpoint.index"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="list"),
        pytest.param("{}", id="no map"),
        pytest.param('{"weight_map": []}', id="map is a list"),
        pytest.param('{"weight_map": {}}', id="map is empty"),
        pytest.param('{"weight_map": {"a": 1}}', id="number"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"weight_map": {"a": "x", "a": "y"}}', id="twice"),
        pytest.param("\udcff", id="not UTF-8"),
        pytest.param(
            '{"metadata": {"total_size": 1e999}, "weight_map": {"a": "a.safetensors"}}',
            id="beyond every range",
        ),
        pytest.param(
            '{"metadata": {"total_size": NaN}, "weight_map": {"a": "a.safetensors"}}',
            id="no number",
        ),
        pytest.param(
            '{"metadata": {"by": "\\ud800"}, "weight_map": {"a": "a.safetensors"}}',
            id="half a character",
        ),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    """Whatever is in an index file, the answer is an error that names it."""
    write_file(tmp_path / "a.safetensors", A)
    (tmp_path / INDEX).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=INDEX):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """The message says which of how many files are missing."""
    write_sharded(tmp_path, {"one.safetensors": A, "two.safetensors": B})
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 shards .* two\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_no_shard_holds_is_named(tmp_path: Path) -> None:
    """An index of another release than its shards is noticed."""
    write_sharded(tmp_path, {"one.safetensors": A})
    (tmp_path / INDEX).write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "ghost": "one.safetensors"}})
    )
    with pytest.raises(CheckpointError, match="ghost"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_the_index_does_not_name_is_told(tmp_path: Path) -> None:
    """It is not a tensor of the checkpoint, but it is not hidden either."""
    write_sharded(tmp_path, {"one.safetensors": A, "two.safetensors": {**B, **A}})
    (tmp_path / INDEX).write_text(
        json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})
    )
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.unlisted == ("c", "a")


PICKLES = {
    "pytorch_model.bin": pickle.dumps({}, protocol=2),
    "model.pt": b"",
    "model.safetensors": b"PK\x03\x04" + bytes([0, 0, 8, 8]) + bytes(100),
    "renamed.safetensors": pickle.dumps({"a": [1] * 100}, protocol=4),
    "old.safetensors": pickle.dumps({"a": [1] * 100}, protocol=2),
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("by_folder", [False, True])
def test_pickles_are_refused_by_name_and_by_content(
    tmp_path: Path, name: str, by_folder: bool
) -> None:
    """The error says that loading one can run code, and what to do instead; the file itself is
    never loaded.
    """
    (tmp_path / name).write_bytes(PICKLES[name])
    with pytest.raises(CheckpointError, match="can run code") as caught:
        open_checkpoint(tmp_path if by_folder else tmp_path / name)
    assert caught.value.code == "checkpoint.pickle"
    assert ".safetensors" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            "Git LFS pointer",
        ),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "GGUF"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
)
def test_other_files_under_this_name_are_recognised(
    tmp_path: Path, content: bytes, said: str
) -> None:
    """Common mistakes get their own words instead of a remark on the header length."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(path)


def test_a_header_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    """A header of 640 bytes begins with the bytes of a pickle, and is read all the same."""
    raw = file_bytes({"n" * 580: ("U8", (1,), b"x")})
    padding = 640 - int.from_bytes(raw[:8], "little")
    path = tmp_path / "x.safetensors"
    path.write_bytes((640).to_bytes(8, "little") + raw[8:-1] + b" " * padding + b"x")
    assert path.read_bytes().startswith(b"\x80\x02")
    assert len(open_checkpoint(path).tensors) == 1


def test_what_is_no_checkpoint_gets_one_clear_error(tmp_path: Path) -> None:
    """Nothing there, an empty folder, several candidates, a pipe, an empty file: each its own
    error, and none of them waits.
    """
    write_file(tmp_path / "two" / "a.safetensors", A)
    write_file(tmp_path / "two" / "b.safetensors", A)
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.safetensors").touch()
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.mkfifo(tmp_path / f"pipe.{INDEX}")
    expected: dict[str, type[DsmopsError]] = {
        "absent.safetensors": SourceError,
        "empty": CheckpointError,
        "two": CheckpointError,
        "pipe.safetensors": InputError,
        f"pipe.{INDEX}": InputError,
        "none.safetensors": HeaderError,
    }
    for name, kind in expected.items():
        with pytest.raises(kind, match=name):
            open_checkpoint(tmp_path / name)
