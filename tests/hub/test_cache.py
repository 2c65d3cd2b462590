"""The cache on disk is one cache for dsmops and huggingface_hub."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

from dsmops.errors import SourceError, TransferError
from dsmops.files import replace_atomically
from dsmops.hub import cache, fetch, in_cache, plan_download
from dsmops.hub.settings import read_settings
from dsmops.hub.source import FileVersion, HubFile
from tests.hub.conftest import StartHub

WEIGHTS = HubFile("org/repo", "main", "sub/mimi@125.safetensors")
CONFIG = HubFile("org/repo", "main", "config.json")
CONTENT = {WEIGHTS.filename: b"weights" * 1000, CONFIG.filename: b"{}"}


def test_huggingface_hub_finds_what_dsmops_fetched(start_hub: StartHub) -> None:
    """After our download the official client serves the same paths without a request and sees a
    sound cache.
    """
    hub = start_hub({"org/repo": CONTENT})
    paths = fetch(plan_download([WEIGHTS, CONFIG]))
    folder = read_settings().cache
    before = len(hub.requests)
    for file in (WEIGHTS, CONFIG):
        assert try_to_load_from_cache(file.repo, file.filename, cache_dir=folder) == str(
            paths[file]
        )
        assert hf_hub_download(
            file.repo, file.filename, cache_dir=folder, local_files_only=True
        ) == str(paths[file])
    assert len(hub.requests) == before
    found = scan_cache_dir(folder)
    assert not found.warnings
    assert found.size_on_disk == sum(map(len, CONTENT.values()))


def test_dsmops_finds_what_huggingface_hub_fetched(start_hub: StartHub, tmp_path: Path) -> None:
    """A file that the official client downloaded is used without a request, for a branch, a pull
    request and the commit itself.
    """
    hub = start_hub({"org/repo": CONTENT})
    commit = hub.repos["org/repo"].refs["main"]
    hub.repos["org/repo"].refs["refs/pr/1"] = commit
    for revision in ("main", "refs/pr/1"):
        hf_hub_download(
            WEIGHTS.repo,
            WEIGHTS.filename,
            revision=revision,
            cache_dir=read_settings().cache,
            endpoint=hub.url,
        )
    before = len(hub.requests)
    for revision in ("main", "refs/pr/1", commit):
        file = HubFile(WEIGHTS.repo, revision, WEIGHTS.filename)
        path = in_cache(file)
        assert path is not None
        assert path.read_bytes() == CONTENT[WEIGHTS.filename]
        assert plan_download([file]).fetch_bytes == 0
    assert len(hub.requests) == before


@pytest.mark.slow
def test_the_staging_command_of_the_offline_error_works(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the error for a missing file tells an operator to run is accepted by the official tool,
    and offline work goes on.
    """
    hub = start_hub({"org/repo": CONTENT})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError) as missing:
        plan_download([WEIGHTS, CONFIG])
    command = missing.value.hint.split("`")[1].split()
    assert command[0] == "hf"
    code = "from huggingface_hub.cli.hf import main; main()"
    online = {**os.environ, "HF_HUB_OFFLINE": "0"}
    subprocess.run(
        [sys.executable, "-c", code, *command[1:]], env=online, check=True, capture_output=True
    )
    hub.requests.clear()
    paths = fetch(plan_download([WEIGHTS, CONFIG]))
    assert {file.filename: path.read_bytes() for file, path in paths.items()} == CONTENT
    assert hub.requests == []


def test_a_link_without_its_blob_is_not_in_the_cache(start_hub: StartHub) -> None:
    """When the blob is gone the file counts as missing, and fetching brings it back."""
    start_hub({"org/repo": CONTENT})
    path = fetch(plan_download([WEIGHTS]))[WEIGHTS]
    path.resolve().unlink()
    assert in_cache(WEIGHTS) is None
    assert fetch(plan_download([WEIGHTS]))[WEIGHTS].read_bytes() == CONTENT[WEIGHTS.filename]


@pytest.mark.slow
def test_a_link_is_there_at_every_moment_while_others_make_it_too(tmp_path: Path) -> None:
    """Two linkers of one file never fail, never leave litter, and a reader never finds the file
    gone.
    """
    version = FileVersion("c" * 40, "e" * 64, 7)
    blob = cache.blob_path(tmp_path, WEIGHTS, version.etag)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"content")
    path = cache.link(tmp_path, WEIGHTS, version)
    with ThreadPoolExecutor(2) as pool:
        linkers = [
            pool.submit(lambda: [cache.link(tmp_path, WEIGHTS, version) for _ in range(300)])
            for _ in range(2)
        ]
        while not all(linker.done() for linker in linkers):
            assert path.read_bytes() == b"content"
    assert [linker.result()[-1] for linker in linkers] == [path, path]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_file_system_without_links_keeps_plain_copies(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where links are refused the content stands in the snapshot itself, and is found there
    again.
    """
    hub = start_hub({"org/repo": CONTENT})

    def refuse(self: Path, target: str | Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    path = fetch(plan_download([WEIGHTS]))[WEIGHTS]
    assert not path.is_symlink()
    assert (
        cache.link(
            read_settings().cache, WEIGHTS, plan_download([WEIGHTS], refresh=True).files[0].version
        )
        == path
    )
    assert path.read_bytes() == CONTENT[WEIGHTS.filename]
    before = len(hub.requests)
    plan = plan_download([WEIGHTS])
    assert (plan.fetch_bytes, plan.files[0].version.sha256) == (0, None)
    assert len(hub.requests) == before


def test_a_commit_is_recorded_when_another_process_records_an_older_one(tmp_path: Path) -> None:
    """Or dies before it has recorded its own."""
    ref = cache.repo_folder(tmp_path, WEIGHTS.repo) / "refs" / WEIGHTS.revision
    with ThreadPoolExecutor(1) as pool:
        with replace_atomically(ref) as other:
            recorded = pool.submit(cache.remember_commit, tmp_path, WEIGHTS, "b" * 40)
            time.sleep(0.05)
            other.write(b"a" * 40)
        recorded.result(10)
    assert ref.read_text() == "b" * 40


@pytest.mark.parametrize("name", ["../../../home/me/.bashrc", "", "..", "a/b", "x" * 200, "a\0b"])
def test_a_hostile_hub_cannot_choose_paths(name: str, tmp_path: Path) -> None:
    """An ETag or a commit that is not a plain name is refused before anything is written."""
    with pytest.raises(TransferError):
        cache.blob_path(tmp_path, WEIGHTS, name)
    with pytest.raises(TransferError):
        cache.link(tmp_path, WEIGHTS, FileVersion(name, "e" * 64, 1))
    assert list(tmp_path.iterdir()) == []


def test_looking_into_the_cache_is_cheap() -> None:
    """`in_cache` needs neither huggingface_hub nor an HTTP library, so a second run starts at
    once.
    """
    code = """
import sys
import time
from dsmops.hub import in_cache, plan_download
from dsmops.hub.source import parse_source
assert in_cache(parse_source("hf://org/repo/model.safetensors")) is None
heavy = ("huggingface_hub", "httpx", "httpx2", "tqdm", "requests")
print([name for name in sys.modules if name.split(".")[0] in heavy])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
