"""A SOURCE argument becomes a local path, with sizes before a download and nothing asked twice."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsmops.cli.views.hub import download_lines
from dsmops.errors import CheckpointError, SourceError
from dsmops.flows.sources import local_checkpoint
from dsmops.hub import DownloadPlan
from tests.support.hub_server import HubServer

SHARDS = {"sub/model-00001-of-00002.safetensors": b"one" * 500_000, "sub/model-00002-of-00002.safetensors": b"two"}
INDEX = json.dumps({"weight_map": {name: Path(shard).name for name, shard in zip("ab", SHARDS, strict=True)}}).encode()
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
    """The plan comes before the first byte of content; a second call makes no request and announces nothing."""
    plans: list[DownloadPlan] = []

    def announce(plan: DownloadPlan) -> None:
        assert hub.sent_bytes() == 0
        plans.append(plan)

    path = local_checkpoint("hf://org/repo/model.safetensors", announce=announce)
    assert path.read_bytes() == b"weights"
    assert [plan.total_bytes for plan in plans] == [len(b"weights")]
    hub.requests.clear()
    assert local_checkpoint("hf://org/repo/model.safetensors", announce=announce) == path
    assert (len(plans), hub.requests) == (1, [])


def test_an_index_brings_its_shards(hub: HubServer) -> None:
    """Beside the index lie the shards that it names, all of one commit, announced in one plan."""
    plans: list[DownloadPlan] = []
    path = local_checkpoint("hf://org/repo/sub/model.safetensors.index.json", announce=plans.append)
    assert {shard: (path.parent.parent / shard).read_bytes() for shard in SHARDS} == SHARDS
    (plan,) = plans
    assert plan.fetch_bytes == sum(map(len, SHARDS.values()))
    lines = list(download_lines(plan))
    assert lines[0].startswith("Downloading 2 files, 1.43 MiB, into ")
    assert [line.rpartition("/")[2] for line in lines[1:]] == [
        "model-00001-of-00002.safetensors  1.43 MiB",
        "model-00002-of-00002.safetensors  3 B",
    ]


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", ""])
def test_an_index_cannot_reach_outside_its_folder(name: str, hub: HubServer) -> None:
    """A shard name that climbs, is absolute or empty is refused before anything is asked for it."""
    hub.repos["org/repo"].publish({"m.safetensors.index.json": json.dumps({"weight_map": {"a": name}}).encode()})
    with pytest.raises(SourceError, match=r"file name|names a repository"):
        local_checkpoint("hf://org/repo/m.safetensors.index.json")
    assert len(hub.requests) == 2


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"weight_map": 1}', b'{"weight_map": {"a": {}}}', b"[" * 100_000, b"\xff"])
def test_an_index_without_shards_is_refused(text: bytes, hub: HubServer) -> None:
    """What is no index is called one error, whatever it holds."""
    hub.repos["org/repo"].publish({"m.safetensors.index.json": text})
    with pytest.raises(CheckpointError, match="weight_map"):
        local_checkpoint("hf://org/repo/m.safetensors.index.json")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/file", "does not exist"),
        ("hf:/org/repo/model.safetensors", "does not exist"),
        ("s3://bucket/model.safetensors", "does not begin with hf://"),
        ("https://huggingface.co/org/repo/blob/main/model.safetensors", "web page"),
        ("hf://org/repo/pytorch_model.bin", "is no checkpoint"),
        ("hf://org/repo", "not a file"),
    ],
)
def test_what_is_no_source_is_refused_without_a_request(source: str, words: str, hub: HubServer) -> None:
    """Every other text is one error with a hint that shows a right name."""
    with pytest.raises(SourceError, match=words) as refused:
        local_checkpoint(source)
    assert "hf://" in refused.value.hint
    assert hub.requests == []
