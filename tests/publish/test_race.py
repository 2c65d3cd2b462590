"""Any number of publishers on one prefix lose nothing, on stores that know no compare-and-swap."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dsmops.operations.publishing import PullRequest, pull_logs
from dsmops.publish.manifest import read_catalogue, record
from dsmops.publish.store import StoreOptions
from tests.conftest import LONG
from tests.publish.conftest import Place

ROOT = Path(__file__).parents[2]


def race(place: Place, folder: Path, publishers: int, rounds: int) -> None:
    """Let processes race, then look that a reader gets every log of every round, and that a last
    merge leaves one manifest.
    """
    endpoint = place.server.url if place.server else ""
    names = [chr(ord("a") + index) for index in range(publishers)]
    racers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.publish.racer",
                place.url,
                endpoint,
                str(folder / name),
                name,
                str(rounds),
            ],
            cwd=ROOT,
            env=os.environ.copy(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    outcomes = [racer.communicate() for racer in racers]
    assert [
        (racer.returncode, stderr) for racer, (_, stderr) in zip(racers, outcomes, strict=True)
    ] == [(0, "")] * publishers

    wanted = {f"log.{name}.{index}": f"{name} {index}" for name in names for index in range(rounds)}
    report = pull_logs(
        PullRequest(place.url, folder / "out", StoreOptions(endpoint_url=endpoint or None))
    )
    assert report.exit_code == 0
    assert {path.name: path.read_text() for path in (folder / "out").iterdir()} == wanted
    store = place.open()
    record(store, read_catalogue(store), [], datetime.now(UTC))
    assert len(read_catalogue(store).read) == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_racing_processes_lose_nothing(place: Place, tmp_path: Path) -> None:
    """Four processes publish at the same time into one folder; every log of every round is there
    afterwards.
    """
    race(place, tmp_path, publishers=4, rounds=5)


@pytest.mark.heavy
def test_racing_processes_lose_nothing_anywhere(place: Place, tmp_path: Path) -> None:
    """The same on every kind of store, with more rounds: a thousand publishing runs each in the
    long run.
    """
    race(place, tmp_path, publishers=5, rounds=200 if LONG else 20)
