"""A real Ray cluster of two nodes: the same bytes, also where a node dies, and their verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.audio import write
from dsmops.errors import (
    ExtraMissingError,
    InputError,
    RemoteError,
    ResourceError,
)
from dsmops.operations import cluster
from dsmops.operations.cluster import ClusterNode
from dsmops.operations.speech.many.ray_actors import Share, plan_share
from dsmops.worker.tiny.stt import write_tiny_stt
from tests.support.ray_cluster import RayCluster, ray_cluster

COUNT = 30
LEAVE_S = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    write_tiny_stt(folder / "model")
    (folder / "in").mkdir()
    rng = np.random.default_rng(7)
    for number in range(COUNT):
        write(folder / "in" / f"{number}.wav", [rng.normal(0, 0.2, 48_000).astype(np.float32)])
    return folder


def command(into: str, *options: str) -> list[str]:
    return [
        *("-m", "dsmops", "transcribe", "in", "--output-dir", into, "--model", "model", "--cpu"),
        *("--timestamps", "--batch-size", "1", "--json", *options),
    ]


def texts(into: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in into.glob("*.txt")}


def notes(into: Path) -> list[Path]:
    return list((into / ".dsmops-run" / "notes").glob("*.jsonl"))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_work_and_checks_on_a_cluster_of_two_nodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cluster for all of it: to start one takes longer than the rest."""
    monkeypatch.chdir(folder)
    with ray_cluster() as ray:
        _too_few_processors_are_one_error(ray, folder)
        _each_node_has_a_verdict(ray)
        _same_bytes_though_a_node_is_lost(ray, folder)


def _too_few_processors_are_one_error(ray: RayCluster, folder: Path) -> None:
    done = ray.python(*command("never", "--ray", ray.address, "--workers", "9"))
    assert done.returncode == ResourceError.exit_code
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "ray.too_few"
    assert error["message"] == "9 workers need a processor each, and the Ray cluster has 2"
    assert not (folder / "never").exists()


def _each_node_has_a_verdict(ray: RayCluster) -> None:
    """Also one that does not answer in time, which both are."""
    fleet = ["-m", "dsmops", "fleet", "check-gpu", "--ray", ray.address, "--json"]
    done = ray.python(*fleet, "--", "--simulate", "t4")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert report["engine"] == "ray"
    assert [node["summary"] for node in report["nodes"]] == ["Tesla T4", "Tesla T4"]
    assert len({node["node"] for node in report["nodes"]}) == 2
    late = ray.python(*fleet, "--timeout", "0.1")
    assert [node["status"] for node in json.loads(late.stdout)["nodes"]] == ["timeout", "timeout"]
    assert late.returncode == RemoteError.exit_code


def _same_bytes_though_a_node_is_lost(ray: RayCluster, folder: Path) -> None:
    """Shard 1 of 3 here, the rest on the cluster, whose second node dies in the middle of it."""
    assert ray.python(*command("alone")).returncode == 0
    first = ray.python(*command("out", "--shard", "1/3"))
    assert first.returncode == 0, first.stderr
    assert 0 < json.loads(first.stdout)["transcribed"] < COUNT

    words = command("out", "--ray", ray.address)
    with subprocess.Popen(
        # Without --json it says what it meets.
        [sys.executable, *(word for word in words if word != "--json")],
        env=ray.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            # Both nodes have finished something, and have more to do.
            deadline = time.monotonic() + LEAVE_S
            while len(notes(folder / "out")) < 3 and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            ray.lose_a_node()
            output, errors = process.communicate(timeout=LEAVE_S)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    # The loss came in time.
    assert "is lost" in errors
    assert f"out: {COUNT} recordings: " in output
    assert texts(folder / "out") == texts(folder / "alone")
    lines = [line for path in notes(folder / "out") for line in path.read_text().splitlines()]
    # What was done is not done again.
    assert len(lines) == COUNT


NODES = [ClusterNode("a", "a", 2, 5), ClusterNode("b", "b", 0, 3)]


@pytest.mark.parametrize(
    ("workers", "cpu", "share"),
    [
        (None, False, Share(2, 1, 0)),
        (1, False, Share(1, 1, 0)),
        (None, True, Share(2, 0, 3)),
        (3, True, Share(3, 0, 2)),
        (8, True, Share(8, 0, 1)),
    ],
)
def test_a_worker_has_a_card_or_its_part_of_the_processors(
    workers: int | None, cpu: bool, share: Share
) -> None:
    assert plan_share(NODES, workers, cpu=cpu) == share


def test_more_workers_than_cards_are_refused() -> None:
    with pytest.raises(ResourceError, match="3 workers need a card each"):
        plan_share(NODES, 3, cpu=False)


def test_a_missing_ray_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(ExtraMissingError) as caught, cluster.connected(cluster.AUTO):
        pass
    assert "dsmops[ray]" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("none found"), "no Ray cluster runs on this machine"),
        (
            RuntimeError("Version mismatch:\n3.11 and 3.12"),
            "the Ray cluster of this machine cannot be used: Version mismatch:",
        ),
    ],
)
def test_a_cluster_that_refuses_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def init(**_: object) -> None:
        raise error

    ray = SimpleNamespace(init=init, _private=SimpleNamespace(worker=SimpleNamespace()))
    monkeypatch.setattr(cluster, "find_spec", lambda _: True)
    monkeypatch.setattr(cluster, "_imported", lambda: ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(RemoteError, match=words), cluster.connected(cluster.AUTO):
        pass


@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("127.0.0.1:1", RemoteError, "no Ray cluster answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", InputError, "the Ray Client"),
        ("nowhere", InputError, "'nowhere' is not an address"),
    ],
)
def test_a_wrong_address_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str, kind: type[Exception], words: str
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: True)
    with pytest.raises(kind, match=words), cluster.connected(address):
        pass
