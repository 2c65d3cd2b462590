"""Plans with sizes, downloads that reuse and resume, and reading heads, against a hub on
loopback.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from dsmops import files
from dsmops.errors import DiskFullError, IntegrityError, SourceError, TransferError
from dsmops.hub import DownloadPlan, cache, fetch, in_cache, list_files, plan_download, read_head
from dsmops.hub.settings import read_settings
from dsmops.hub.source import HubFile
from dsmops.progress import SilentProgress
from tests.hub.conftest import StartHub
from tests.support.hub_server import Fault, Repo

WEIGHTS = HubFile("org/repo", "main", "model.safetensors")
TOKENIZER = WEIGHTS.sibling("tokenizer.model")
CONFIG = WEIGHTS.sibling("config.json")
CONTENT = {
    WEIGHTS.filename: bytes(range(256)) * 8192,  # 2 MiB, several network reads
    TOKENIZER.filename: b"pieces" * 99,
    CONFIG.filename: b'{"dim": 1}',
    "empty.safetensors": b"",
}
ALL_BYTES = sum(len(CONTENT[file.filename]) for file in (WEIGHTS, TOKENIZER, CONFIG))


class Meter(SilentProgress):
    """A Progress that remembers, and that can break off as a user does."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.started: list[tuple[str, int | None]] = []
        self.done = self.finished = 0
        self._interrupt_at = interrupt_at

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.started.append((label, total))

    def advance(self, amount: int) -> None:
        self.done += amount
        if self._interrupt_at is not None and self.done >= self._interrupt_at:
            raise KeyboardInterrupt

    def finish(self) -> None:
        self.finished += 1


def leftovers() -> list[Path]:
    return list(read_settings().cache.glob("**/*.dsmops-partial"))


def test_a_plan_has_sizes_and_downloads_nothing(start_hub: StartHub) -> None:
    """Planning asks for every file once, by HEAD, knows sizes, digest and commit, and leaves no
    trace on the disk.
    """
    hub = start_hub({"org/repo": CONTENT})
    plan = plan_download([WEIGHTS, TOKENIZER, WEIGHTS, CONFIG])
    assert [planned.file for planned in plan.files] == [WEIGHTS, TOKENIZER, CONFIG]
    assert (plan.total_bytes, plan.fetch_bytes) == (ALL_BYTES, ALL_BYTES)
    assert {planned.version.commit for planned in plan.files} == {
        hub.repos["org/repo"].refs["main"]
    }
    assert [planned.version.sha256 is not None for planned in plan.files] == [True, True, False]
    assert [request.method for request in hub.requests] == ["HEAD"] * 3
    assert not read_settings().cache.exists()


def test_fetching_brings_every_file_and_reports_every_byte(start_hub: StartHub) -> None:
    """Fetched files hold the hub's bytes, in the order asked for; progress is one task over exactly
    the planned bytes.
    """
    hub = start_hub({"org/repo": CONTENT})
    meter = Meter()
    paths = fetch(plan_download([TOKENIZER, WEIGHTS, CONFIG]), progress=meter)
    assert list(paths) == [TOKENIZER, WEIGHTS, CONFIG]
    assert {file.filename: path.read_bytes() for file, path in paths.items()} == {
        file.filename: CONTENT[file.filename] for file in paths
    }
    assert meter.started == [("Downloading from org/repo", ALL_BYTES)]
    assert (meter.done, meter.finished) == (ALL_BYTES, 1)
    assert leftovers() == []
    assert not any(request.authorized for request in hub.requests)


def test_a_second_run_makes_no_request(start_hub: StartHub) -> None:
    """With everything in the cache, plan and fetch return the same paths without the network and
    with nothing to do.
    """
    hub = start_hub({"org/repo": CONTENT})
    first = fetch(plan_download([WEIGHTS, CONFIG]))
    hub.requests.clear()
    plan, meter = plan_download([WEIGHTS, CONFIG]), Meter()
    assert plan.fetch_bytes == 0
    assert fetch(plan, progress=meter) == first
    assert {file: in_cache(file) for file in first} == first
    assert hub.requests == []
    assert meter.started == []


def test_an_empty_file_is_a_file(start_hub: StartHub) -> None:
    """A file of no bytes is fetched and found like any other."""
    start_hub({"org/repo": CONTENT})
    empty = WEIGHTS.sibling("empty.safetensors")
    assert fetch(plan_download([empty]))[empty].read_bytes() == b""


def test_odd_names_and_revisions_reach_the_hub_as_they_are(start_hub: StartHub) -> None:
    """Spaces, `#`, `?`, `%` and `@` in a name, and a branch with a slash, are one file and one
    branch.
    """
    hub = start_hub({"org/repo": CONTENT})
    name = "a b/mimi#1?x=%2F@125.safetensors"
    hub.repos["org/repo"].publish({name: b"odd"}, revision="feature/x")
    file = HubFile("org/repo", "feature/x", name)
    assert fetch(plan_download([file]))[file].read_bytes() == b"odd"
    assert in_cache(file) is not None


def test_an_interrupted_download_goes_on_where_it_stopped(start_hub: StartHub) -> None:
    """After Ctrl-C the next run plans and transfers only the rest, and the file is whole."""
    hub = start_hub({"org/repo": CONTENT})
    with pytest.raises(KeyboardInterrupt):
        fetch(plan_download([WEIGHTS]), progress=Meter(interrupt_at=1_000_000))
    assert in_cache(WEIGHTS) is None
    (left,) = leftovers()
    kept = left.stat().st_size
    assert kept >= 1_000_000
    hub.requests.clear()
    plan, meter = plan_download([WEIGHTS]), Meter()
    rest = len(CONTENT[WEIGHTS.filename]) - kept
    assert plan.fetch_bytes == rest
    assert fetch(plan, progress=meter)[WEIGHTS].read_bytes() == CONTENT[WEIGHTS.filename]
    assert (meter.done, hub.sent_bytes()) == (rest, rest)
    assert leftovers() == []


def test_a_download_killed_before_its_last_step_needs_no_more_bytes(start_hub: StartHub) -> None:
    """When everything had arrived but the rename, the next run only verifies."""
    hub = start_hub({"org/repo": CONTENT})
    with pytest.raises(KeyboardInterrupt):
        fetch(plan_download([WEIGHTS]), progress=Meter(interrupt_at=len(CONTENT[WEIGHTS.filename])))
    hub.requests.clear()
    plan = plan_download([WEIGHTS])
    assert plan.fetch_bytes == 0
    assert fetch(plan)[WEIGHTS].read_bytes() == CONTENT[WEIGHTS.filename]
    assert hub.sent_bytes() == 0


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_body_that_ends_early_is_continued(file: HubFile, start_hub: StartHub) -> None:
    """A connection closed in the middle is resumed by a range within the same run."""
    hub = start_hub({"org/repo": CONTENT})
    hub.faults.append(Fault("GET", status=503))
    hub.faults.append(Fault("GET /cdn" if file is WEIGHTS else "GET /org", after_bytes=5))
    assert fetch(plan_download([file]))[file].read_bytes() == CONTENT[file.filename]
    assert "bytes=5-" in [request.range for request in hub.requests]


def test_a_server_without_ranges_is_asked_for_the_whole_again(start_hub: StartHub) -> None:
    """Where ranges are ignored a resumed download starts over, is whole, and its progress ends at
    the total.
    """
    hub = start_hub({"org/repo": CONTENT})
    hub.knows_ranges = False
    hub.faults.append(Fault("GET /cdn", after_bytes=1_000_000))
    meter = Meter()
    assert (
        fetch(plan_download([WEIGHTS]), progress=meter)[WEIGHTS].read_bytes()
        == CONTENT[WEIGHTS.filename]
    )
    assert meter.done == len(CONTENT[WEIGHTS.filename])


def test_damaged_content_is_removed(start_hub: StartHub) -> None:
    """Bytes that do not match the SHA-256 never become a file, and leave nothing that would be
    resumed.
    """
    hub = start_hub({"org/repo": CONTENT})
    hub.faults.append(Fault("GET /cdn", damaged=True))
    with pytest.raises(IntegrityError, match="SHA-256"):
        fetch(plan_download([WEIGHTS]))
    assert in_cache(WEIGHTS) is None
    assert leftovers() == []
    assert fetch(plan_download([WEIGHTS]))[WEIGHTS].read_bytes() == CONTENT[WEIGHTS.filename]


def test_more_bytes_than_promised_are_refused(start_hub: StartHub) -> None:
    """A content longer than the hub announced is damage, also where no SHA-256 is known."""
    start_hub({"org/repo": CONTENT})
    plan = plan_download([CONFIG])
    (planned,) = plan.files
    shorter = replace(planned, version=replace(planned.version, size_bytes=3))
    with pytest.raises(IntegrityError, match="more than its 3 bytes"):
        fetch(replace(plan, files=(shorter,)))
    assert leftovers() == []


def test_no_room_is_noticed_before_the_first_byte(start_hub: StartHub) -> None:
    """A plan larger than the free space fails with both numbers and without a request for
    content.
    """
    hub = start_hub({"org/repo": CONTENT})
    plan = plan_download([WEIGHTS])
    version = replace(plan.files[0].version, size_bytes=1 << 60)
    huge = DownloadPlan((replace(plan.files[0], version=version),), plan.settings)
    hub.requests.clear()
    with pytest.raises(DiskFullError) as full:
        fetch(huge)
    assert full.value.need_bytes == 1 << 60
    assert full.value.free_bytes is not None
    assert hub.requests == []


def test_what_another_process_has_downloaded_meanwhile_needs_no_space(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that begin at the same time each plan the whole file, and it takes its space once."""
    start_hub({"org/repo": CONTENT})
    plan = plan_download([WEIGHTS])
    blob = cache.blob_path(plan.settings.cache, WEIGHTS, plan.files[0].version.etag)
    blob.parent.mkdir(parents=True)
    files.partial_path(blob).write_bytes(CONTENT[WEIGHTS.filename][:-10])
    monkeypatch.setattr(files, "free_bytes", lambda _: 10)
    assert fetch(plan)[WEIGHTS].read_bytes() == CONTENT[WEIGHTS.filename]


def test_a_moved_branch_is_noticed_only_when_asked(start_hub: StartHub) -> None:
    """A cached branch stays at its commit until `refresh`; then only what changed is downloaded,
    and the branch moves.
    """
    hub = start_hub({"org/repo": CONTENT})
    old = fetch(plan_download([WEIGHTS, CONFIG]))
    hub.repos["org/repo"].publish({**CONTENT, CONFIG.filename: b'{"dim": 2}'})
    assert fetch(plan_download([WEIGHTS, CONFIG])) == old
    hub.requests.clear()
    plan = plan_download([WEIGHTS, CONFIG], refresh=True)
    assert plan.fetch_bytes == len(b'{"dim": 2}')
    new = fetch(plan)
    assert new[CONFIG].read_bytes() == b'{"dim": 2}'
    assert hub.sent_bytes() == 0
    assert in_cache(CONFIG) == new[CONFIG]
    pinned = replace(CONFIG, revision=old[CONFIG].parent.name)
    assert fetch(plan_download([pinned])) == {pinned: old[CONFIG]}


def test_all_files_of_a_revision_come_from_one_commit(start_hub: StartHub) -> None:
    """When a file is missing and the branch has moved, the cached neighbours are resolved again
    too.
    """
    hub = start_hub({"org/repo": CONTENT})
    fetch(plan_download([WEIGHTS, CONFIG]))
    hub.repos["org/repo"].publish({**CONTENT, CONFIG.filename: b'{"dim": 2}'})
    paths = fetch(plan_download([CONFIG, WEIGHTS, TOKENIZER]))
    assert paths[CONFIG].read_bytes() == b'{"dim": 2}'
    assert len({path.parent for path in paths.values()}) == 1


def test_a_failed_update_leaves_the_old_files_usable(start_hub: StartHub) -> None:
    """A branch moves in the cache only once all files of the new commit are there."""
    hub = start_hub({"org/repo": CONTENT})
    old = fetch(plan_download([WEIGHTS, CONFIG]))
    hub.repos["org/repo"].publish({WEIGHTS.filename: b"new weights", CONFIG.filename: b"{}"})
    hub.faults.append(Fault("GET /cdn", damaged=True))
    with pytest.raises(IntegrityError):
        fetch(plan_download([CONFIG, WEIGHTS], refresh=True))
    assert {file: in_cache(file) for file in old} == old


def test_a_token_never_reaches_the_content_network(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token goes to the hub and not to where the hub redirects."""
    hub = start_hub({"org/repo": Repo(CONTENT, readers=frozenset({"hf_good"}))})
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    fetch(plan_download([WEIGHTS]))
    assert {request.path.startswith("/cdn"): request.authorized for request in hub.requests} == {
        False: True,
        True: False,
    }


def test_offline_uses_the_cache_and_names_what_is_missing(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, cached files work; a missing one is named with the command that stages it, without a
    request.
    """
    hub = start_hub({"org/repo": CONTENT})
    paths = fetch(plan_download([WEIGHTS]))
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(plan_download([WEIGHTS], refresh=True)) == paths
    tagged = HubFile("org/repo", "v1", "model.safetensors")
    with pytest.raises(SourceError, match=r"tokenizer\.model") as missing:
        plan_download([WEIGHTS, TOKENIZER, CONFIG])
    assert "hf download org/repo tokenizer.model config.json`" in missing.value.hint
    with pytest.raises(SourceError) as missing:
        read_head(tagged, 8)
    assert "hf download org/repo model.safetensors --revision v1" in missing.value.hint
    assert hub.requests == []


def test_reading_a_head_transfers_only_the_head(start_hub: StartHub) -> None:
    """The first bytes and the size of a remote file cost that many bytes; nothing is kept."""
    hub = start_hub({"org/repo": CONTENT})
    content = CONTENT[WEIGHTS.filename]
    assert read_head(WEIGHTS, 100) == (content[:100], len(content))
    assert hub.sent_bytes() == 100
    assert read_head(CONFIG, 10_000) == (CONTENT[CONFIG.filename], len(CONTENT[CONFIG.filename]))
    assert read_head(WEIGHTS.sibling("empty.safetensors"), 8) == (b"", 0)
    assert not read_settings().cache.exists()


def test_reading_a_head_stops_by_itself_where_ranges_are_unknown(start_hub: StartHub) -> None:
    """A server that sends the whole file is cut off after the head, and a failing one is asked
    again.
    """
    hub = start_hub({"org/repo": CONTENT})
    hub.knows_ranges = False
    hub.faults.append(Fault("GET /cdn", status=500))
    assert read_head(WEIGHTS, 100)[0] == CONTENT[WEIGHTS.filename][:100]


def test_reading_a_head_prefers_the_cache(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached file's head is read from the disk, also offline."""
    hub = start_hub({"org/repo": CONTENT})
    fetch(plan_download([WEIGHTS]))
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read_head(WEIGHTS, 100) == (
        CONTENT[WEIGHTS.filename][:100],
        len(CONTENT[WEIGHTS.filename]),
    )
    assert hub.requests == []


def test_a_repository_lists_its_files_and_the_cache_what_it_has(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request, and one more try where the hub is busy; offline only what was fetched, of any
    repository.
    """
    hub = start_hub({"org/repo": CONTENT})
    hub.faults.append(Fault("GET /api/models", status=503))
    assert list_files(CONFIG) == sorted(CONTENT)
    assert [request.status for request in hub.requests] == [503, 200]
    fetch(plan_download([WEIGHTS]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    assert list_files(CONFIG) == [WEIGHTS.filename]
    assert list_files(HubFile("org/other", "main", "x")) == []
    assert hub.requests == []


def test_a_cache_that_cannot_be_written_is_named(
    start_hub: StartHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache folder that is a file ends in one error with its path."""
    start_hub({"org/repo": CONTENT})
    (tmp_path / "not-a-folder").touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not-a-folder"))
    with pytest.raises(SourceError, match="not-a-folder"):
        fetch(plan_download([WEIGHTS]))


def test_patience_ends(start_hub: StartHub) -> None:
    """A hub that never gets to send anything is given up after a few attempts, and the error says
    how many.
    """
    hub = start_hub({"org/repo": CONTENT})
    hub.faults.append(Fault("GET /cdn", times=99, status=502))
    with pytest.raises(TransferError, match=r"502 .*\(4 attempts\)"):
        fetch(plan_download([WEIGHTS]))
    assert leftovers() == []
