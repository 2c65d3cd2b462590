"""Results in a bucket, at real servers: each once, also after kills and on another machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.audio import write
from dsmops.cli.views.transcription_run import of_ending
from dsmops.errors import InputError, TransferError
from dsmops.operations.speech.many import outputs
from dsmops.operations.speech.many.outputs import BucketOutputs
from dsmops.operations.speech.many.transcribing import Job, TranscriptionRun, transcribe_many
from dsmops.operations.speech.many.work import Shard
from dsmops.worker.tiny.stt import write_tiny_stt
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.slow

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, recordings, and their transcripts in a folder."""
    folder = tmp_path_factory.mktemp("outputs")
    write_tiny_stt(folder / "model")
    rng = np.random.default_rng(5)
    for number in range(COUNT):
        path = folder / "in" / ("größe" if number % 2 else "") / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, [rng.normal(0, 0.2, 12_000 + 3_000 * number).astype(np.float32)])
    transcribe_many(job(folder, folder / "out"))
    return folder


def job(folder: Path, into: Path, bucket: str | None = None, *, shard: Shard = Shard()) -> Job:  # noqa: B008 frozen
    render = partial(of_ending, timestamps=True, vad=False)
    return Job(
        (str(folder / "in"),),
        into,
        str(folder / "model"),
        ("txt", "srt"),
        render,
        cpu=True,
        batch_size=2,
        shard=shard,
        bucket=bucket,
    )


def results(server: S3Server, bucket: str, prefix: str) -> dict[str, bytes]:
    """What a prefix holds, without the run's own state."""
    listed = server.client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", ())
    names = [one["Key"].removeprefix(f"{prefix}/") for one in listed]
    return {
        name: server.client.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read()
        for name in names
        if not name.startswith(".")
    }


def in_folder(folder: Path) -> dict[str, bytes]:
    out = folder / "out"
    files = (path for ending in ("txt", "srt") for path in out.rglob(f"*.{ending}"))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_a_bucket_gets_what_a_folder_gets(
    folder: Path, new_bucket: str, server: S3Server, tmp_path: Path
) -> None:
    """Nothing else but the run's state; again, also on another machine, only what is missing."""
    address = f"s3://{new_bucket}/a/b"
    done = transcribe_many(job(folder, tmp_path / "run", address))
    assert (done.folder, done.transcribed, done.failures) == (address, COUNT, ())
    expected = in_folder(folder)
    assert results(server, new_bucket, "a/b") == expected
    for machine in ("run", "other-machine"):
        again = transcribe_many(job(folder, tmp_path / machine, address))
        assert (again.done_before, again.transcribed, again.device) == (COUNT, 0, None)
        server.client.delete_object(Bucket=new_bucket, Key="a/b/0.txt")
        again = transcribe_many(job(folder, tmp_path / machine, address))
        assert (again.done_before, again.transcribed) == (COUNT - 1, 1)
        assert results(server, new_bucket, "a/b") == expected
    assert not [path for path in (tmp_path / "run").iterdir() if path.name != ".dsmops-run"]


def test_shards_need_no_common_folder(
    folder: Path, new_bucket: str, server: S3Server, tmp_path: Path
) -> None:
    address = f"s3://{new_bucket}/shards"
    runs = [
        transcribe_many(job(folder, tmp_path / str(n), address, shard=Shard(n, 2))) for n in (1, 2)
    ]
    assert sum(one.transcribed for one in runs) == COUNT
    assert results(server, new_bucket, "shards") == in_folder(folder)
    whole = transcribe_many(job(folder, tmp_path / "3", address))
    assert (whole.done_before, whole.transcribed) == (COUNT, 0)


def test_a_killed_run_goes_on_where_it_was(
    folder: Path, new_bucket: str, server: S3Server, tmp_path: Path
) -> None:
    """At several moments, one of them between the transcripts of a recording."""
    address = f"s3://{new_bucket}/killed"
    for most in (1, 4, 7):
        child = os.fork()
        if child == 0:
            try:
                _kill_after_puts(most)
                transcribe_many(job(folder, tmp_path / "run", address))
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    noted = [
        json.loads(line)["key"]
        for path in (tmp_path / "run" / ".dsmops-run" / "notes").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert len(noted) == len(set(noted)) > 0
    done = transcribe_many(job(folder, tmp_path / "run", address))
    assert (done.done_before, done.transcribed) == (len(noted), COUNT - len(noted))
    assert results(server, new_bucket, "killed") == in_folder(folder)


def _kill_after_puts(most: int) -> None:
    """Kill this process once so many results were sent."""
    put, sent = outputs._put, []

    def counted(*arguments: object) -> None:
        put(*arguments)  # type: ignore[arg-type]
        sent.append(arguments)
        if len(sent) > most:  # the first is the run's own
            time.sleep(0.3)  # what was sent before is noted
            os.kill(os.getpid(), signal.SIGKILL)

    outputs._put = counted


def test_objects_of_others_are_never_written_over(
    folder: Path, new_bucket: str, server: S3Server, tmp_path: Path
) -> None:
    """Nor is a run that was begun with other settings; a prefix that was emptied is free."""
    server.client.put_object(Bucket=new_bucket, Key="mine/0.txt", Body=b"thesis")
    with pytest.raises(InputError, match="holds objects that are not of such a run"):
        transcribe_many(job(folder, tmp_path / "run", f"s3://{new_bucket}/mine"))
    address, key = f"s3://{new_bucket}/run", "run/.dsmops-run/run.json"
    with job(folder, tmp_path / "run", address).open_folder():
        settings = server.client.get_object(Bucket=new_bucket, Key=key)["Body"].read()
    other = settings.replace(b"srt,txt", b"json")
    server.client.put_object(Bucket=new_bucket, Key=key, Body=other)
    with pytest.raises(InputError, match=f"{address} was begun with formats json, not srt,txt"):
        job(folder, tmp_path / "other-machine", address).open_folder()
    server.client.delete_object(Bucket=new_bucket, Key=key)
    job(folder, tmp_path / "other-machine", address).open_folder()
    # The first machine still knows the run whose objects are gone: the bucket counts.
    server.client.put_object(
        Bucket=new_bucket, Key=key, Body=settings.replace(b"srt,txt", b"srt,vtt")
    )
    server.client.put_object(Bucket=new_bucket, Key="run/.dsmops-run/evil", Body=b"mine")
    with pytest.raises(InputError, match="was begun with formats srt,vtt, not srt,txt"):
        job(folder, tmp_path / "run", address).open_folder()
    assert not (tmp_path / "run" / ".dsmops-run" / "evil").exists()


@pytest.mark.parametrize("other", ["out", "run"])
def test_the_folder_of_another_run_is_left_as_it_is(
    folder: Path, new_bucket: str, tmp_path: Path, other: str
) -> None:
    """Of one with its results in it, and of one into another bucket."""
    shutil.copytree(folder / "out", tmp_path / "out")
    job(folder, tmp_path / "run", f"s3://{new_bucket}/first").open_folder()
    run_file = tmp_path / other / ".dsmops-run" / "run.json"
    before = run_file.read_bytes()
    with pytest.raises(InputError, match="is the folder of another run"):
        job(folder, tmp_path / other, f"s3://{new_bucket}/second").open_folder()
    assert run_file.read_bytes() == before


def test_a_name_that_no_object_can_have_is_told_first(
    folder: Path, new_bucket: str, tmp_path: Path
) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "in").mkdir()
    shutil.copy(folder / "in" / "0.wav", os.fsencode(tmp_path / "in") + b"/\xff.wav")
    with pytest.raises(InputError, match="cannot be the name of an object: not UTF-8"):
        transcribe_many(job(tmp_path, tmp_path / "run", f"s3://{new_bucket}/names"))
    long = BucketOutputs(f"s3://{new_bucket}/names", tmp_path)
    with pytest.raises(InputError, match="more than 1024 bytes"):
        long.place("x" * 1024)
    with pytest.raises(InputError, match="a control character"):
        long.place("a\nb.txt")


def test_a_bucket_that_is_lost_ends_the_run_and_loses_nothing(
    folder: Path, new_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, put, sent = f"s3://{new_bucket}/lost", outputs._put, []

    def fail_later(*arguments: object) -> None:
        sent.append(arguments)
        if len(sent) > 6:
            raise TransferError("the store is gone", hint="", code="publish.transfer")
        put(*arguments)  # type: ignore[arg-type]

    def run() -> TranscriptionRun:
        return transcribe_many(job(folder, tmp_path / "run", address))

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "_put", fail_later)
        with pytest.raises(TransferError, match="the store is gone"):
            run()
    done = run()
    assert done.done_before > 0
    assert done.done_before + done.transcribed == COUNT
