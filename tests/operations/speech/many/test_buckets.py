"""Recordings in buckets: listed by prefix or by name, read when their turn comes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from dsmops.audio import read, write
from dsmops.errors import InputError, MissingObjectError, SourceError
from dsmops.operations.speech.many import inputs
from dsmops.operations.speech.many.listing import list_recordings, require_any
from tests.support.s3_servers import S3Server
from tests.support.sound import sweep


@pytest.fixture
def bucket(server: S3Server, new_bucket: str) -> str:
    """A bucket of some recordings, as users name it."""
    for key in ("calls/a.wav", "calls/deep/b.flac", "calls/notes.txt", "calls/.c.wav", "d.wav"):
        server.client.put_object(Bucket=new_bucket, Key=key, Body=key.encode())
    return new_bucket


def names(*given: str) -> set[str]:
    return {one.name for one in list_recordings(given)}


@pytest.mark.slow
def test_a_prefix_is_listed_as_a_folder_is(bucket: str) -> None:
    assert names(f"s3://{bucket}/calls") == names(f"s3://{bucket}/calls/") == {"a", "deep/b"}
    assert names(f"s3://{bucket}") == {"calls/a", "calls/deep/b", "d"}
    with pytest.raises(InputError, match="call holds no recording"):
        names(f"s3://{bucket}/call")
    with pytest.raises(InputError, match="does not exist"):
        names(f"s3://{bucket}-no/calls")


@pytest.mark.slow
def test_objects_are_named_one_by_one(bucket: str, tmp_path: Path) -> None:
    """As arguments, in a list beside files, in a manifest; one that is not there fails alone."""
    assert names(f"s3://{bucket}/calls/a.wav", f"s3://{bucket}/d.wav") == {"calls/a", "d"}
    (tmp_path / "list").write_text(f"s3://{bucket}/calls/a.wav\ns3://{bucket}/gone.wav\n")
    listed = {one.name: one.size_bytes for one in list_recordings([f"@{tmp_path}/list"])}
    assert listed == {"calls/a": len("calls/a.wav"), "gone": None}
    (tmp_path / "m.jsonl").write_text(f'{{"id": "x", "audio": "s3://{bucket}/d.wav"}}\n')
    assert names(str(tmp_path / "m.jsonl")) == {"x"}
    with pytest.raises(SourceError, match="none of the recordings is there"):
        require_any(list_recordings([f"s3://{bucket}/gone.wav"]))


@pytest.mark.slow
def test_an_object_is_read_as_the_file_it_is(bucket: str, server: S3Server, tmp_path: Path) -> None:
    """Under its own name in messages, and another one once it is replaced."""
    path, address = tmp_path / "d.wav", f"s3://{bucket}/d.wav"
    (before,) = list_recordings([address])
    write(path, [sweep(24_000, 0.2)])
    server.client.put_object(Bucket=bucket, Key="d.wav", Body=path.read_bytes())
    (after,) = list_recordings([address])
    assert before.key != after.key
    with inputs.opened(after.file) as source:
        assert (read(source) == read(path)).all()
    with (
        inputs.opened(f"s3://{bucket}/calls/a.wav") as source,
        pytest.raises(InputError, match=f"s3://{bucket}/calls/a.wav: not readable as audio"),
    ):
        read(source)
    with pytest.raises(MissingObjectError), inputs.opened(f"s3://{bucket}/gone.wav"):
        pass


@pytest.mark.slow
def test_a_run_over_a_bucket_writes_what_one_over_files_does(
    bucket: str, server: S3Server, tmp_path: Path
) -> None:
    """An object that is not audio, and one that is gone by its turn, fail alone."""
    pytest.importorskip("torch", reason="the worker extra is not installed")
    from dsmops.cli.views.transcription_run import of_ending
    from dsmops.operations.speech.many.transcribing import Job, transcribe_many
    from dsmops.worker.tiny.stt import write_tiny_stt

    write_tiny_stt(tmp_path / "model")
    for number in range(3):
        path = tmp_path / "in" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        write(path, [sweep(24_000, 0.2 + 0.1 * number)])
        server.client.put_object(Bucket=bucket, Key=f"in/{number}.wav", Body=path.read_bytes())
    server.client.put_object(Bucket=bucket, Key="in/bad.wav", Body=b"no audio")
    (tmp_path / "list").write_text(f"s3://{bucket}/in/\ns3://{bucket}/in/gone.wav\n")

    def run(given: str, into: str) -> tuple[int, list[str]]:
        render = partial(of_ending, timestamps=True, vad=False)
        model = str(tmp_path / "model")
        job = Job((given,), tmp_path / into, model, ("txt",), render, cpu=True, batch_size=2)
        done = transcribe_many(job)
        return done.transcribed, [failure.error for failure in done.failures]

    assert run(str(tmp_path / "in"), "files") == (3, [])
    count, (bad, gone) = run(f"@{tmp_path}/list", "objects")
    assert count == 3
    assert f"s3://{bucket}/in/bad.wav: not readable as audio" in bad
    assert f"s3://{bucket}/in/gone.wav" in gone
    for number in range(3):
        texts = [(tmp_path / into / f"{number}.txt") for into in ("files", "objects")]
        assert texts[0].read_bytes() == texts[1].read_bytes()
    assert run(f"s3://{bucket}/in", "objects")[0] == 0
