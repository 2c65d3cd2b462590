"""Networks that reset and hang, processes that die, disks that fill: what is left, and that the
next run completes.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsmops.errors import SourceError, TargetBusyError, TransferError
from dsmops.files import partial_path, replace_atomically
from dsmops.hub import cache, fetch, in_cache, plan_download, resolve, transfer
from dsmops.hub.settings import read_settings
from dsmops.hub.source import HubFile
from dsmops.progress import SILENT, SilentProgress
from tests.hub.conftest import StartHub
from tests.support.hub_server import Fault

pytestmark = pytest.mark.fault

WEIGHTS = HubFile("org/repo", "main", "model.safetensors")
CONTENT = os.urandom(8 << 20)
KEPT = 5_000_000

FETCH = """
from dsmops.hub import fetch, plan_download
from dsmops.hub.source import parse_source
file = parse_source("hf://org/repo/model.safetensors")
try:
    fetch(plan_download([file]))
except Exception as exc:
    print(type(exc).__name__, exc)
"""


def leftovers() -> list[Path]:
    return list(read_settings().cache.glob("**/*.dsmops-partial"))


def test_a_reset_connection_is_continued(start_hub: StartHub) -> None:
    """After a TCP reset in the middle the rest comes by a range, in the same run."""
    hub = start_hub({"org/repo": {WEIGHTS.filename: CONTENT}})
    hub.faults.append(Fault("GET /cdn", after_bytes=KEPT, then="reset"))
    assert fetch(plan_download([WEIGHTS]))[WEIGHTS].read_bytes() == CONTENT
    assert [request.range is not None for request in hub.requests if "cdn" in request.path] == [
        False,
        True,
    ]


def test_a_hanging_connection_is_given_up_and_continued(start_hub: StartHub) -> None:
    """A server that stops sending is left after the time-out, and the rest comes by a range."""
    hub = start_hub({"org/repo": {WEIGHTS.filename: CONTENT}})
    hub.faults.append(Fault("GET /cdn", after_bytes=KEPT, then="stall"))
    assert fetch(plan_download([WEIGHTS]))[WEIGHTS].read_bytes() == CONTENT
    assert hub.sent_bytes() == len(CONTENT)


@pytest.mark.timeout(25)
def test_a_silent_hub_is_given_up(start_hub: StartHub) -> None:
    """A hub that takes a question and never answers is left after the time-out, also when it is
    only asked for near names.
    """
    hub = start_hub({"org/repo": {WEIGHTS.filename: CONTENT}})
    hub.faults.append(Fault("HEAD", silent=True))
    assert plan_download([WEIGHTS]).total_bytes == len(CONTENT)
    hub.faults += [Fault("HEAD", times=99, silent=True)]
    with pytest.raises(TransferError, match="3 attempts"):
        plan_download([WEIGHTS])
    hub.faults[:] = [Fault("/api/models", times=99, silent=True)]
    with pytest.raises(SourceError) as refused:
        plan_download([WEIGHTS.sibling("model.safetensor")])
    assert refused.value.hint.endswith("/org/repo/tree/main")


def test_a_slow_connection_is_not_a_hanging_one(start_hub: StartHub) -> None:
    """A trickle that outlasts the time-out in all, but never pauses that long, is one request."""
    hub = start_hub({"org/repo": {WEIGHTS.filename: CONTENT[:40_000]}})
    hub.faults.append(Fault("GET /cdn", pause_s=0.15))
    assert fetch(plan_download([WEIGHTS]))[WEIGHTS].read_bytes() == CONTENT[:40_000]
    assert sum("cdn" in request.path for request in hub.requests) == 1


class Told(SilentProgress):
    """Progress that keeps what is announced."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.amounts: list[int] = []
        self.came = threading.Event()

    def advance(self, amount: int) -> None:
        self.amounts.append(amount)

    def announce(self, lines: Iterable[str]) -> None:
        self.lines += lines
        self.came.set()


def no_links(self: Path, target: str | Path) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("has_links", [True, False])
def test_several_that_fetch_the_same_file_at_once_all_have_it(
    has_links: bool, start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the parts of an array do that begin at the same time: it is downloaded once."""
    if not has_links:
        monkeypatch.setattr(Path, "symlink_to", no_links)
    hub = start_hub({"org/repo": {WEIGHTS.filename: CONTENT[:40_000]}})
    hub.faults.append(Fault("GET /cdn", pause_s=0.02))
    with ThreadPoolExecutor(3) as threads:
        plans = [plan_download([WEIGHTS]) for _ in range(3)]
        fetched = list(threads.map(fetch, plans))
    assert {one[WEIGHTS].read_bytes() for one in fetched} == {CONTENT[:40_000]}
    assert sum("cdn" in request.path for request in hub.requests) == 1
    assert leftovers() == []


def test_a_file_that_came_before_the_lock_is_not_fetched_again(start_hub: StartHub) -> None:
    hub = start_hub({"org/repo": {WEIGHTS.filename: CONTENT[:40_000]}})
    plan = plan_download([WEIGHTS])
    fetch(plan)
    hub.requests.clear()
    transfer.download(WEIGHTS, plan.files[0].version, plan.settings, SILENT)
    assert hub.requests == []
    assert leftovers() == []


def test_a_process_that_holds_a_file_and_adds_nothing_is_not_waited_for(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be stopped, or its lock is left of a machine that is gone."""
    monkeypatch.setattr(resolve, "_STILL_S", 0.3)
    start_hub({"org/repo": {WEIGHTS.filename: CONTENT[:40_000]}})
    plan, told = plan_download([WEIGHTS]), Told()
    blob = cache.blob_path(plan.settings.cache, WEIGHTS, plan.files[0].version.etag)
    with replace_atomically(blob, resume=True) as held:
        held.write(CONTENT[:1000])
        with pytest.raises(TargetBusyError, match=r"added nothing to it for 0\.3 s") as busy:
            fetch(plan, progress=told)
        held.write(CONTENT[1000:40_000])
    assert str(partial_path(blob)) in busy.value.message
    assert told.amounts == [1000]
    assert fetch(plan)[WEIGHTS].read_bytes() == CONTENT[:40_000]


def test_a_killed_download_is_resumed_by_the_next_run(start_hub: StartHub) -> None:
    """While a process downloads, a second one waits; once it is killed, the second fetches only the
    rest.
    """
    hub = start_hub({"org/repo": {WEIGHTS.filename: CONTENT}})
    hub.faults.append(Fault("GET /cdn", after_bytes=KEPT, then="stall"))
    child = subprocess.Popen(
        [sys.executable, "-c", FETCH], env={**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    )
    assert hub.stalled.wait(60)
    plan, told = plan_download([WEIGHTS]), Told()
    with ThreadPoolExecutor(1) as thread:
        second = thread.submit(fetch, plan, progress=told)
        assert told.came.wait(60)
        assert in_cache(WEIGHTS) is None
        hub.requests.clear()
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert second.result()[WEIGHTS].read_bytes() == CONTENT
    assert told.lines == [f"Waiting for another process that downloads {WEIGHTS}"]
    # What the child had not yet read from its socket when it died has to come again.
    assert len(CONTENT) - KEPT <= hub.sent_bytes() < len(CONTENT)
    assert leftovers() == []


def test_a_disk_that_fills_in_the_middle_leaves_nothing(start_hub: StartHub) -> None:
    """When the file cannot grow further, the error says so and the space is given back."""
    start_hub({"org/repo": {WEIGHTS.filename: CONTENT}})

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (KEPT, KEPT))

    done = subprocess.run(
        [sys.executable, "-c", FETCH],
        preexec_fn=small_files,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("DiskFullError no room left while writing")
    assert leftovers() == []
    assert in_cache(WEIGHTS) is None
