"""A SOURCE argument becomes a local path, with sizes before a download and nothing asked twice."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from dsmops.errors import CheckpointError, HeaderError, SourceError
from dsmops.hub import parse_source
from dsmops.operations.models.sources import local_checkpoint, read_hub_header, source_headers
from tests.support.hub_server import HubServer
from tests.support.progress import RecordedProgress

SHARDS = {
    "sub/model-00001-of-00002.safetensors": b"one" * 500_000,
    "sub/model-00002-of-00002.safetensors": b"two",
}
INDEX = json.dumps(
    {"weight_map": {name: Path(shard).name for name, shard in zip("ab", SHARDS, strict=True)}}
).encode()
REPO = {"model.safetensors": b"weights", "sub/model.safetensors.index.json": INDEX, **SHARDS}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({"org/repo": REPO}) as server:
        for name, value in server.env(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_local_path_is_itself(tmp_path: Path, hub: HubServer) -> None:
    """An existing file or folder is returned as it is, without a request."""
    (tmp_path / "model.safetensors").touch()
    assert local_checkpoint(str(tmp_path)) == tmp_path
    assert local_checkpoint(str(tmp_path / "model.safetensors")) == tmp_path / "model.safetensors"
    assert hub.requests == []


def test_a_hub_file_is_announced_and_downloaded_once(hub: HubServer) -> None:
    """The plan comes before the first byte of content.

    A second call makes no request and announces nothing.
    """

    class BeforeContent(RecordedProgress):
        def announce(self, lines: Iterable[str]) -> None:
            assert hub.sent_bytes() == 0
            super().announce(lines)

    progress = BeforeContent()
    path = local_checkpoint("hf://org/repo/model.safetensors", progress=progress)
    assert path.read_bytes() == b"weights"
    ((total, _),) = progress.announced
    assert total.startswith(f"Downloading 1 file, {len(b'weights')} B, into ")
    hub.requests.clear()
    assert local_checkpoint("hf://org/repo/model.safetensors", progress=progress) == path
    assert (len(progress.announced), hub.requests) == (1, [])


def test_a_dry_run_downloads_nothing(hub: HubServer) -> None:
    """Without leave to download, a file that is not in the cache is an error with its size.

    One that is there is used.
    """
    for name, size in (
        ("model.safetensors", "7"),
        ("sub/model.safetensors.index.json", str(len(INDEX))),
    ):
        with pytest.raises(SourceError, match=f"{size} bytes"):
            local_checkpoint(f"hf://org/repo/{name}", download=False)
    assert {request.method for request in hub.requests} == {"HEAD"}
    path = local_checkpoint("hf://org/repo/model.safetensors")
    assert local_checkpoint("hf://org/repo/model.safetensors", download=False) == path


def test_an_index_brings_its_shards(hub: HubServer) -> None:
    """Beside the index lie the shards that it names, all of one commit, announced in one plan."""
    progress = RecordedProgress()
    path = local_checkpoint("hf://org/repo/sub/model.safetensors.index.json", progress=progress)
    assert {shard: (path.parent.parent / shard).read_bytes() for shard in SHARDS} == SHARDS
    (lines,) = progress.announced
    assert lines[0].startswith("Downloading 2 files, 1.43 MiB, into ")
    assert [line.rpartition("/")[2] for line in lines[1:]] == [
        "model-00001-of-00002.safetensors  1.43 MiB",
        "model-00002-of-00002.safetensors  3 B",
    ]


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd.safetensors", "a/../../b.safetensors", ""]
)
def test_an_index_cannot_reach_outside_its_folder(name: str, hub: HubServer) -> None:
    """A shard name that climbs, is absolute or empty is refused before anything is asked for it."""
    hub.repos["org/repo"].publish(
        {"m.safetensors.index.json": json.dumps({"weight_map": {"a": name}}).encode()}
    )
    with pytest.raises(CheckpointError, match="below this folder"):
        local_checkpoint("hf://org/repo/m.safetensors.index.json")
    assert len(hub.requests) == 2


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": 1}',
        b'{"weight_map": {"a": {}}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_an_index_without_shards_is_refused(text: bytes, hub: HubServer) -> None:
    """What is not an index is one error, whatever it holds."""
    hub.repos["org/repo"].publish({"m.safetensors.index.json": text})
    with pytest.raises(CheckpointError, match="index"):
        local_checkpoint("hf://org/repo/m.safetensors.index.json")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/file", "does not exist"),
        ("hf:/org/repo/model.safetensors", "does not exist"),
        ("s3://bucket/model.safetensors", "does not begin with hf://"),
        ("https://huggingface.co/org/repo/blob/main/model.safetensors", "web page"),
        ("hf://org/repo/pytorch_model.bin", "is not a checkpoint"),
        ("hf://org/repo", "not a file"),
    ],
)
def test_what_is_no_source_is_refused_without_a_request(
    source: str, words: str, hub: HubServer
) -> None:
    """Every other text is one error with a hint that shows a right name."""
    with pytest.raises(SourceError, match=words) as refused:
        local_checkpoint(source)
    assert "hf://" in refused.value.hint
    assert hub.requests == []


def checkpoint(tensors: int, data_bytes_each: int) -> bytes:
    """Return a safetensors file of many small tensors."""
    entries = {
        f"transformer.layers.{index}.weight": {
            "dtype": "U8",
            "shape": [data_bytes_each],
            "data_offsets": [index * data_bytes_each, (index + 1) * data_bytes_each],
        }
        for index in range(tensors)
    }
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(tensors * data_bytes_each)


@pytest.mark.parametrize(("tensors", "requests"), [(2, 3), (3000, 6)])
def test_a_remote_header_is_read_without_the_data(
    tensors: int, requests: int, hub: HubServer
) -> None:
    """The header of a remote checkpoint costs one request for its version and at most two reads,
    whatever the file's size.
    """
    body = checkpoint(tensors, 2000)
    hub.repos["org/repo"].publish({"big.safetensors": body})
    header = read_hub_header(parse_source("hf://org/repo/big.safetensors"))
    assert (len(header.tensors), header.file_bytes) == (tensors, len(body))
    assert len(hub.requests) == requests
    assert hub.sent_bytes() <= 2**17 + header.data_start
    hub.requests.clear()
    local_checkpoint("hf://org/repo/big.safetensors")
    hub.requests.clear()
    assert read_hub_header(parse_source("hf://org/repo/big.safetensors")) == header
    assert hub.requests == []


def test_the_headers_of_remote_shards_are_read_without_their_data(hub: HubServer) -> None:
    """Of an index on the hub only the index is downloaded.

    Every shard gives its header, under the name the index has for it.
    """
    shards = {
        "one.safetensors": checkpoint(2, 500_000),
        "below/two.safetensors": checkpoint(3, 500_000),
    }
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    hub.repos["org/repo"].publish(
        {
            "m/x.safetensors.index.json": index,
            **{f"m/{name}": body for name, body in shards.items()},
        }
    )
    headers = source_headers("hf://org/repo/m/x.safetensors.index.json")
    assert {name: len(header.tensors) for name, header in headers.items()} == {
        "one.safetensors": 2,
        "below/two.safetensors": 3,
    }
    assert hub.sent_bytes() == 2 * 2**17


@pytest.mark.parametrize(
    "body", [b"", b"weights", (1 << 62).to_bytes(8, "little") + b"{}", checkpoint(2, 9)[:-1]]
)
def test_a_remote_file_that_is_no_checkpoint_is_a_header_error(body: bytes, hub: HubServer) -> None:
    """What is at the other end is judged by its size and first bytes, and named by its hf://
    name.
    """
    hub.repos["org/repo"].publish({"bad.safetensors": body})
    with pytest.raises(HeaderError, match=r"hf://org/repo/bad\.safetensors"):
        read_hub_header(parse_source("hf://org/repo/bad.safetensors"))
