"""`publish-logs` and `pull-logs` as a user types them: text, JSON and exit codes."""

import shlex
from pathlib import Path

import pytest

from tests.support.cli import dsmops

CLEAN = (
    "[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] src/main.rs:475: starting"
    " worker\n"
)
LEAK = (
    "[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] src/main.rs:475: query auth_id:"
    ' Some("s3cr3t-key-of-mine")\n'
)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs/moshi-logs"
    folder.mkdir(parents=True)
    (folder / "log.stt.2025-11-15").write_text(CLEAN)
    return folder


def test_publish_list_and_pull(logs: Path, tmp_path: Path) -> None:
    """With the default source: publish, list, pull, and again; the text says what was done and what
    it cost.
    """
    run = dsmops("publish-logs", "--bucket", "file:store", cwd=tmp_path)
    assert (run.code, run.stderr) == (0, "")
    assert "sent      log.stt.2025-11-15" in run.stdout
    assert "1 file sent" in run.stdout
    assert "requests (" in run.stdout
    assert (
        "0 files sent (0 B), 1 unchanged"
        in dsmops("publish-logs", "--bucket", "file:store", cwd=tmp_path).stdout
    )
    listed = dsmops("pull-logs", "--bucket", "file:store", "--list", cwd=tmp_path)
    assert "log.stt.2025-11-15" in listed.stdout
    pulled = dsmops("pull-logs", "--bucket", "file:store", "--output", "here", cwd=tmp_path)
    assert (pulled.code, (tmp_path / "here/log.stt.2025-11-15").read_text()) == (0, CLEAN)
    assert (
        "0 files fetched, 1 already there"
        in dsmops("pull-logs", "--bucket", "file:store", "-o", "here", cwd=tmp_path).stdout
    )


def test_documents_carry_sums_and_schema(logs: Path, tmp_path: Path) -> None:
    """`--json` has counts, files, bytes and requests by kind, in one document with its schema, for
    both commands.
    """
    sent = dsmops("publish-logs", "--bucket", "file:store", "--json", cwd=tmp_path).document
    assert sent["schema"] == "dsmops.publish-logs/1"
    assert sent["counts"] == {
        "sent": 1,
        "renamed": 0,
        "unchanged": 0,
        "refused": 0,
        "failed": 0,
        "recovered": 0,
    }
    assert sent["body_bytes"] == len(CLEAN)
    assert sent["usage"]["requests"]["put"] == 2
    assert sent["usage"]["total_requests"] == sum(sent["usage"]["requests"].values())
    pulled = dsmops(
        "pull-logs", "--bucket", "file:store", "-o", "here", "--json", cwd=tmp_path
    ).document
    assert pulled["schema"] == "dsmops.pull-logs/1"
    (file,) = pulled["files"]
    assert (file["name"], file["outcome"], file["size_bytes"]) == (
        "log.stt.2025-11-15",
        "fetched",
        len(CLEAN),
    )
    assert file["modified"].endswith("Z")


def test_a_content_that_is_lost_is_not_said_to_be_compared(logs: Path, tmp_path: Path) -> None:
    """It is named, with what to do; the closing line promises nothing, and the exit code is that of
    the other side.
    """
    dsmops("publish-logs", "--bucket", "file:store", cwd=tmp_path)
    (lost,) = [
        path
        for path in (tmp_path / "store").rglob("*")
        if path.is_file() and path.read_bytes() == CLEAN.encode()
    ]
    lost.unlink()
    run = dsmops("pull-logs", "--bucket", "file:store", "--output", "here", cwd=tmp_path)
    assert run.code == 6
    assert "failed    log.stt.2025-11-15" in run.stdout
    assert "compared" not in run.stdout


def test_content_that_leaks_stays_here(logs: Path, tmp_path: Path) -> None:
    """A key in a log refuses that file with exit code 1, the count, the way out, and never the
    value.
    """
    (logs / "log.leak").write_text(LEAK)
    run = dsmops("publish-logs", "--bucket", "file:store", cwd=tmp_path)
    assert run.code == 1
    assert "refused   log.leak: 1 × " in run.stdout
    assert "format-log" in run.stdout
    assert "s3cr3t" not in run.stdout + run.stderr
    assert not any(
        b"s3cr3t" in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()
    )
    told = dsmops("publish-logs", "--bucket", "file:store", "--allow-unredacted", cwd=tmp_path)
    assert (told.code, "1 file sent" in told.stdout) == (0, True)
    assert (
        "unredacted" in dsmops("pull-logs", "--bucket", "file:store", "--list", cwd=tmp_path).stdout
    )


def test_leaks_inside_compressed_logs_are_found(logs: Path, tmp_path: Path) -> None:
    """What is inside gzip and zstd is searched too; damaged compression is a failure, not a
    pass.
    """
    import gzip

    import zstandard

    (logs / "log.a.gz").write_bytes(gzip.compress(LEAK.encode()))
    (logs / "log.b.zst").write_bytes(zstandard.compress(LEAK.encode()))
    (logs / "log.c.gz").write_bytes(gzip.compress(CLEAN.encode())[:-4])
    (logs / "log.d.gz").write_bytes(gzip.compress(CLEAN.encode()))
    run = dsmops("publish-logs", "--bucket", "file:store", "--json", cwd=tmp_path)
    outcomes = {file["name"]: file["outcome"] for file in run.document["files"]}
    assert outcomes == {
        "log.a.gz": "refused",
        "log.b.zst": "refused",
        "log.c.gz": "failed",
        "log.d.gz": "sent",
        "log.stt.2025-11-15": "sent",
    }
    assert run.code == 6


def test_what_no_rule_can_look_into_stays_here(logs: Path, tmp_path: Path) -> None:
    """Archives that are not unpacked, UTF-16 and other content that is not text is refused,
    whatever its name.
    """
    import bz2
    import gzip
    import lzma

    (logs / "log.a.xz").write_bytes(lzma.compress(LEAK.encode()))
    (logs / "log.b.bz2").write_bytes(bz2.compress(LEAK.encode()))
    (logs / "log.c").write_bytes(LEAK.encode("utf-16"))
    (logs / "log.d.gz").write_bytes(gzip.compress(gzip.compress(LEAK.encode())))
    run = dsmops("publish-logs", "--bucket", "file:store", "--json", cwd=tmp_path)
    refused = [
        (file["name"], *file["hits"])
        for file in run.document["files"]
        if file["outcome"] == "refused"
    ]
    assert refused == [(name, "no-text") for name in ("log.a.xz", "log.b.bz2", "log.c", "log.d.gz")]
    assert run.code == 1


def test_quiet_says_nothing(logs: Path, tmp_path: Path) -> None:
    """`--quiet` leaves the answer to the exit code."""
    run = dsmops("publish-logs", "--bucket", "file:store", "--quiet", cwd=tmp_path)
    assert (run.code, run.stdout, run.stderr) == (0, "", "")


def test_a_dry_run_leaves_no_trace(logs: Path, tmp_path: Path) -> None:
    """`--dry-run` says what would be sent and makes not even the folder."""
    run = dsmops("publish-logs", "--bucket", "file:store", "--dry-run", cwd=tmp_path)
    assert "would be sent log.stt.2025-11-15" in run.stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["publish-logs"], 2, "--bucket"),
        (
            ["publish-logs", "--bucket", "file:store", "--source", "nowhere"],
            3,
            "nowhere does not exist",
        ),
        (["publish-logs", "--bucket", "./store"], 3, "file:./store"),
        (["publish-logs", "--bucket", "/srv/logs"], 3, "file:/srv/logs"),
        (["publish-logs", "--bucket", "Bad_Bucket"], 3, "cannot be the name of a bucket"),
        (["publish-logs", "--bucket", "ftp://x"], 3, "not the name of a store"),
        (["publish-logs", "--bucket", "file:logs/moshi-logs/shared"], 3, "published into itself"),
        (["publish-logs", "--bucket", "file:store", "--acl", "private"], 3, "--acl: only S3"),
        (["publish-logs", "--bucket", "logs", "--prefix", "../x"], 3, "relative"),
        (["publish-logs", "--bucket", "logs", "--sse-kms-key-id", "k"], 2, "aws:kms"),
        (["publish-logs", "--bucket", "logs", "--profile", "no-such"], 4, "no-such"),
        (["publish-logs", "--bucket", "logs", "--endpoint-url", "nonsense"], 3, "--endpoint-url"),
        (["pull-logs", "--bucket", "file:store"], 2, "--list"),
        (["pull-logs", "--bucket", "file:store", "--list", "--output", "x"], 2, "--list"),
        (["pull-logs", "--bucket", "file:store", "--list"], 3, "nothing is published"),
        (["pull-logs", "--bucket", "file:store", "--list", "--since", "someday"], 3, "someday"),
        (["publish-logs", "--bucket", "logs", "--presign", "8d"], 2, "from 1s to 7d"),
        (["publish-logs", "--bucket", "logs", "--checksum", "crc64"], 2, "sha256"),
        (["publish-logs", "--bucket", "file:store", "--presign", "1h"], 3, "--presign"),
        (["publish-logs", "--bucket", "file:store", "--checksum", "md5"], 3, "--checksum"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_get_one_clear_error(
    logs: Path, tmp_path: Path, args: list[str], code: int, words: str
) -> None:
    """Each mistake ends with its exit code and words that name it, without a traceback or anything
    written.
    """
    run = dsmops(*args, cwd=tmp_path)
    assert run.code == code
    assert words in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "store").exists()


def test_errors_are_json_when_asked(tmp_path: Path) -> None:
    """With `--json` an error is one document on stderr, and stdout stays empty."""
    run = dsmops("pull-logs", "--bucket", "file:store", "--list", "--json", cwd=tmp_path)
    assert (run.code, run.stdout) == (3, "")
    assert '"code": "publish.empty"' in run.stderr


def test_a_raw_source_is_refused_by_name(logs: Path, tmp_path: Path) -> None:
    """Pointing `--source` at the raw folder is an error that says what to do."""
    (logs / "raw").mkdir()
    (logs / "raw/log.stt").write_text(LEAK)
    run = dsmops(
        "publish-logs", "--bucket", "file:store", "--source", str(logs / "raw"), cwd=tmp_path
    )
    assert run.code == 3
    assert "--include-raw" in run.stderr


def test_local_files_are_kept(logs: Path, tmp_path: Path) -> None:
    """A file of the user's own under a published name stays, with exit code 1, until forced."""
    dsmops("publish-logs", "--bucket", "file:store", cwd=tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/log.stt.2025-11-15").write_text("mine")
    run = dsmops("pull-logs", "--bucket", "file:store", "-o", "here", cwd=tmp_path)
    assert (run.code, (tmp_path / "here/log.stt.2025-11-15").read_text()) == (1, "mine")
    assert "--force replaces it" in run.stdout
    assert (
        dsmops("pull-logs", "--bucket", "file:store", "-o", "here", "--force", cwd=tmp_path).code
        == 0
    )
    assert (tmp_path / "here/log.stt.2025-11-15").read_text() == CLEAN


def test_the_last_line_is_the_command_of_a_colleague(logs: Path, tmp_path: Path) -> None:
    """It works as printed, in another folder, also where names need quotes."""
    run = dsmops("publish-logs", "--bucket", "file:a store", "--prefix", "host-1", cwd=tmp_path)
    last = run.stdout.splitlines()[-1]
    program, *arguments = shlex.split(last.partition(": ")[2])
    assert program == "dsmops"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert dsmops(*arguments, cwd=elsewhere).code == 0
    assert (elsewhere / "pulled/log.stt.2025-11-15").read_text() == CLEAN
    document = dsmops(
        "publish-logs", "--bucket", "file:a store", "--prefix", "host-1", "--json", cwd=tmp_path
    ).document
    assert document["pull_arguments"] == arguments[:-2]


def test_since_takes_what_format_log_takes(logs: Path, tmp_path: Path) -> None:
    """Times back from now, days by name, and dates with minutes."""
    dsmops("publish-logs", "--bucket", "file:store", cwd=tmp_path)
    for since, count in (("-1h", 1), ("yesterday", 1), ("2025-01-02 03:04", 1), ("now", 0)):
        listed = dsmops(
            "pull-logs", "--bucket", "file:store", "--list", "--since", since, "--json",
            cwd=tmp_path,
        )  # fmt: skip
        assert (since, listed.document["counts"]["listed"]) == (since, count)


def test_a_file_name_cannot_forge_a_line(logs: Path, tmp_path: Path) -> None:
    """A line break in a name is spelled out in text; the JSON document has the name as it is."""
    forged = "log.x\nsent      log.secret (1 KiB)"
    (logs / forged).write_text(CLEAN)
    run = dsmops("publish-logs", "--bucket", "file:store", cwd=tmp_path)
    assert run.code == 6
    assert "failed    log.x\\nsent      log.secret" in run.stdout
    assert not [line for line in run.stdout.splitlines() if line.startswith("sent      log.secret")]
    document = dsmops("publish-logs", "--bucket", "file:store", "--json", cwd=tmp_path).document
    assert forged in [file["name"] for file in document["files"]]
    missing = dsmops("publish-logs", "--bucket", "file:store", "--source", forged, cwd=tmp_path)
    assert missing.stderr.count("\n") == 2
