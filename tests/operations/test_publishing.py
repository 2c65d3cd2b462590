"""`publish-logs` and `pull-logs` from end to end, on a folder; the stores themselves are compared
in tests/publish.
"""

import bz2
import gzip
import lzma
import os
import unicodedata
import zipfile
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any, cast

import pytest
import zstandard

from dsmops.errors import InputError, SourceError
from dsmops.operations.publishing import (
    LOG_RULES,
    PublishReport,
    PublishRequest,
    PullRequest,
    RedactionCheck,
    publish_logs,
    pull_logs,
)
from dsmops.publish.store import StoreOptions

NOW = datetime(2025, 11, 15, 8, 39, 3, tzinfo=UTC)


def find_secret(_name: str, stream: RawIOBase) -> dict[str, int]:
    """A rule of one word."""
    data = stream.read()
    return {"secret": data.count(b"SECRET") if data else 0}


CHECK = RedactionCheck(3, find_secret)


class World:
    """A folder of logs and a folder store."""

    def __init__(self, root: Path) -> None:
        self.logs, self.store, self.out = root / "logs", root / "store", root / "out"
        self.logs.mkdir()
        self.runs = 0

    def write(self, **files: str) -> None:
        for name, content in files.items():
            (self.logs / name.replace("_", ".")).write_text(content)

    def publish(self, *, check: RedactionCheck = CHECK, **options: Any) -> PublishReport:
        self.runs += 1
        request = PublishRequest(
            f"file:{self.store}", self.logs, StoreOptions(workers=2), **options
        )
        return publish_logs(request, check=check, now=NOW + timedelta(minutes=self.runs))

    def pull(self, **options: Any) -> Any:
        return pull_logs(
            PullRequest(f"file:{self.store}", self.out, StoreOptions(workers=2), **options)
        )

    def pulled(self) -> dict[str, str]:
        return {
            path.relative_to(self.out).as_posix(): path.read_text()
            for path in self.out.rglob("*")
            if path.is_file()
        }

    def stored(self) -> list[str]:
        return sorted(
            path.relative_to(self.store).as_posix()
            for path in self.store.rglob("*")
            if path.is_file()
        )

    def bodies(self) -> list[str]:
        return [key for key in self.stored() if key.startswith("bodies/")]

    def manifests(self) -> list[Path]:
        return list((self.store / "manifests").iterdir())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_published_comes_back(world: World) -> None:
    """Files published are pulled under their names with their bytes and times."""
    world.write(log_a="one\n", log_b="two\n", log_empty="")
    os.utime(world.logs / "log.a", ns=(1, 1_700_000_000_123_456_789))
    report = world.publish()
    assert (report.counts["sent"], report.exit_code) == (3, 0)
    assert world.pull().counts["fetched"] == 3
    assert world.pulled() == {"log.a": "one\n", "log.b": "two\n", "log.empty": ""}
    assert (world.out / "log.a").stat().st_mtime_ns == 1_700_000_000_123_456_789
    again = world.pull()
    assert (again.counts["same"], again.counts["fetched"]) == (3, 0)


def test_a_run_without_news_writes_nothing(world: World) -> None:
    """Publishing the same again takes one list and one get, and leaves the store as it was."""
    world.write(**{f"log_{index}": str(index) for index in range(30)})
    world.publish()
    before = world.stored()
    report = world.publish()
    assert report.counts["unchanged"] == 30
    assert report.usage.requests == {
        "list": 1,
        "get": 1,
        "head": 0,
        "put": 0,
        "multipart": 0,
        "delete": 0,
    }
    assert report.manifest is None
    assert world.stored() == before


def test_rotation_by_rename_sends_no_body(world: World) -> None:
    """After every file got another name only the manifest is written, nothing is scanned, and the
    names are right afterwards.
    """
    world.write(**{f"log_x.{index}": f"content {index}" for index in range(1, 6)})
    world.publish()
    for index in range(5, 0, -1):
        (world.logs / f"log.x.{index}").rename(world.logs / f"log.x.{index + 1}")

    def no_scan(name: str, _stream: RawIOBase) -> dict[str, int]:
        raise AssertionError(f"{name} was scanned again")

    report = world.publish(check=RedactionCheck(3, no_scan))
    assert (report.counts["renamed"], report.counts["sent"], report.body_bytes) == (5, 0, 0)
    assert report.usage.requests["put"] == 1
    world.pull()
    assert {
        f"log.x.{index + 1}": f"content {index}" for index in range(1, 6)
    }.items() <= world.pulled().items()


def test_equal_files_are_sent_once(world: World) -> None:
    """Two files with the same content are one body and two names."""
    world.write(log_a="same", log_b="same")
    report = world.publish()
    assert (report.counts["sent"], report.body_bytes, len(world.bodies())) == (2, 4, 1)
    world.pull()
    assert world.pulled() == {"log.a": "same", "log.b": "same"}


def test_a_growing_log_comes_back_once(world: World) -> None:
    """A live log published at three lengths, the last after its rotation, is pulled once, at its
    longest.
    """
    world.write(log_x="one\n")
    world.publish()
    world.write(log_x="one\ntwo\n")
    world.publish()
    (world.logs / "log.x").rename(world.logs / "log.x.1")
    (world.logs / "log.x.1").write_text("one\ntwo\nthree\n")
    world.write(log_x="next day\n")
    world.publish()
    world.pull()
    assert world.pulled() == {"log.x.1": "one\ntwo\nthree\n", "log.x": "next day\n"}


def test_a_name_that_has_an_earlier_content_again(world: World) -> None:
    """Rotation leaves an empty log again: the name is recorded for that content again, once, and no
    body is sent.
    """
    for content in ("", "one\n"):
        world.write(log_x=content)
        world.publish()
    world.write(log_x="", log_x_1="one\n")
    assert world.publish().counts["renamed"] == 2
    assert world.publish().manifest is None
    world.pull()
    assert world.pulled() == {"log.x": "", "log.x.1": "one\n"}


def test_a_clock_that_ran_ahead_does_not_keep_a_name(world: World) -> None:
    """What is published after a run dated 2099 has its name all the same."""
    world.write(log_x="from the future")
    request = PublishRequest(f"file:{world.store}", world.logs)
    publish_logs(request, check=CHECK, now=datetime(2099, 1, 1, tzinfo=UTC))
    world.write(log_x="now")
    world.publish()
    world.pull()
    assert world.pulled()["log.x"] == "now"


def test_content_with_secrets_stays_here(world: World) -> None:
    """A file with a hit is refused with its counts, the others go, the exit code is 1, and the
    value is nowhere in the store.
    """
    world.write(log_a="fine", log_b="a SECRET and another SECRET")
    report = world.publish()
    assert (report.counts["sent"], report.counts["refused"], report.exit_code) == (1, 1, 1)
    (refused,) = (file for file in report.files if file.outcome == "refused")
    assert (refused.name, refused.hits) == ("log.b", {"secret": 2})
    assert not any(
        b"SECRET" in path.read_bytes() for path in world.store.rglob("*") if path.is_file()
    )
    assert world.publish().counts["refused"] == 1


def test_names_and_headers_are_looked_at_too() -> None:
    """A token in the name of a file or folder, in a gzip header, or in a frame that zstd skips."""
    token = "hf_" + "aB3" * 12
    clean = b"nothing here\n"
    header = gzip.compress(clean)
    header = header[:3] + b"\x08" + header[4:10] + token.encode() + b"\0" + header[10:]
    skipped = b"\x50\x2a\x4d\x18" + len(token).to_bytes(4, "little") + token.encode()
    for name, content in (
        ("log.1.gz", header),
        ("log.1.zst", zstandard.compress(clean) + skipped),
    ):
        found = LOG_RULES.scan(name, cast(RawIOBase, BytesIO(content)))
        assert {rule for rule, count in found.items() if count} == {"header"}
    assert not any(LOG_RULES.scan("log.1", cast(RawIOBase, BytesIO(clean))).values())
    for name in (f"logs/{token}/log.1", "log.bob@example.org.1", "203.0.113.9/log.1"):
        assert LOG_RULES.scan_name(name) == {"file-name": 1}
    for name in ("host-1/log.stt.2025-11-15", "log.2025.11.15.08", "log.stt-1.2.3.4.5.gz", "log.%"):
        assert LOG_RULES.scan_name(name) == {}


TOKEN = b"hf_" + b"aB3" * 12
CLEAN = b"nothing here\n"
LEAK = b"token " + TOKEN + b"\n"


def gzip_with(flags: int, fields: bytes, content: bytes = CLEAN) -> bytes:
    """Return a member with fields after its fixed header."""
    member = gzip.compress(content)
    return member[:3] + bytes([flags]) + member[4:10] + fields + member[10:]


def skippable(content: bytes, kind: int = 0) -> bytes:
    """Return a zstd frame that readers skip."""
    return bytes([0x50 + kind, 0x2A, 0x4D, 0x18]) + len(content).to_bytes(4, "little") + content


def zstd(content: bytes) -> bytes:
    return zstandard.compress(content)


def with_dictionary(content: bytes) -> bytes:
    dictionary = zstandard.ZstdCompressionDict(CLEAN * 10)
    return zstandard.ZstdCompressor(dict_data=dictionary).compress(content)


def zipped(content: bytes) -> bytes:
    """Return an archive that stores the content as it is."""
    with zipfile.ZipFile(archive := BytesIO(), "w") as file:
        file.writestr("log.1", content)
    return archive.getvalue()


EXTRA = b"AB" + len(TOKEN).to_bytes(2, "little") + TOKEN
HIDDEN: dict[str, bytes] = {
    "gzip, second member": gzip.compress(CLEAN) + gzip.compress(LEAK),
    "gzip, cut between members": gzip.compress(LEAK[:20]) + gzip.compress(LEAK[20:]),
    "gzip, member after an empty one": gzip.compress(b"") + gzip.compress(LEAK),
    "gzip, FEXTRA": gzip_with(4, len(EXTRA).to_bytes(2, "little") + EXTRA),
    "gzip, FNAME": gzip_with(8, TOKEN + b"\0"),
    "gzip, FCOMMENT": gzip_with(16, TOKEN + b"\0"),
    "gzip, FEXTRA, FNAME, FCOMMENT": gzip_with(28, b"\2\0ABlog\0" + TOKEN + b"\0"),
    "gzip, comment of the last of 1,500": gzip.compress(b"") * 1500 + gzip_with(16, TOKEN + b"\0"),
    "gzip, long name with the token at its end": gzip_with(8, b"a " * 50_000 + TOKEN + b"\0"),
    "gzip, text after the data": gzip.compress(CLEAN) + LEAK,
    "gzip in gzip": gzip.compress(gzip.compress(LEAK)),
    "gzip, cut off": gzip.compress(LEAK)[:-9],
    "zstd, skippable": skippable(TOKEN) + zstd(CLEAN),
    "zstd, skippable of another kind": zstd(CLEAN) + skippable(TOKEN, 15),
    "zstd, skippable over an edge of reads": skippable(b"a " * 32_750 + LEAK) + zstd(CLEAN),
    "zstd, last of 1,500 skippable": skippable(b"1") * 1500 + skippable(TOKEN) + zstd(CLEAN),
    "zstd, skippable of 2 MiB": skippable(b"a " * (1 << 20) + LEAK) + zstd(CLEAN),
    "zstd, after empty frames": zstd(b"") * 5 + zstd(LEAK),
    "zstd, with a dictionary": with_dictionary(LEAK),
    "zstd, then gzip": zstd(CLEAN) + gzip.compress(LEAK),
    "xz": lzma.compress(LEAK),
    "lzma": lzma.compress(LEAK, lzma.FORMAT_ALONE),
    "bz2": bz2.compress(LEAK),
    "zip": zipped(LEAK),
    "zlib": zlib.compress(LEAK),
    "deflate": zlib.compress(LEAK)[2:-4],
    "UTF-16": LEAK.decode().encode("utf-16"),
    "EBCDIC": LEAK.decode().encode("cp500"),
}


@pytest.mark.parametrize("content", HIDDEN.values(), ids=HIDDEN)
def test_what_is_hidden_in_a_file_stays_here(content: bytes) -> None:
    """A token in any corner of a compressed file is found, or the file is refused as unreadable."""
    try:
        found = LOG_RULES.scan("log.1", cast(RawIOBase, BytesIO(content)))
    except InputError:
        return
    assert any(found.values()), found


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(CLEAN) * 1500,
        gzip_with(8, b"log.stt\0"),
        skippable(b"\x10\0\0\0") + zstd(CLEAN),
        "Übergrößenträger – 日本語\n".encode(),
        "un été à la forêt\n".encode("latin-1"),
    ],
    ids=["members", "name", "pzstd", "utf-8", "latin-1"],
)
def test_ordinary_files_are_not_held_back(content: bytes) -> None:
    """Nothing is found in what compressors write, nor in text of other languages."""
    assert not any(LOG_RULES.scan("log.1", cast(RawIOBase, BytesIO(content))).values())


@pytest.mark.parametrize(
    "name",
    [
        "log.hf%5F" + "aB3" * 12,
        "log.%68%66_" + "aB3" * 12,
        unicodedata.normalize("NFD", "löggs/log.hf_" + "aB3" * 12),
        "log.bob%40example.org",
        "log.ｈｆ＿" + "ａＢ３" * 12,
        "log.hf_" + "aB3" * 6 + "\u200b" + "aB3" * 6,
        "log.203%2E0%2E113%2E9",
        "log.203.0.113.9",
        "host-203.0.113.9.log.gz",
    ],
)
def test_disguised_names_stay_here(name: str) -> None:
    """A token or an address in a name is found through escapes and other forms of characters."""
    assert LOG_RULES.scan_name(name) == {"file-name": 1}


def test_known_content_under_a_secret_name_stays_here(world: World) -> None:
    """A name is looked at where the store does not have it yet, though the content is known: after
    a rename, and where two files are equal.
    """
    world.write(log_x_1="content")
    assert world.publish(check=LOG_RULES).counts["sent"] == 1
    (world.logs / "log.x.1").rename(world.logs / "log.bob@example.org.1")
    report = world.publish(check=LOG_RULES)
    assert (report.counts["refused"], report.counts["renamed"]) == (1, 0)
    assert report.files[0].hits == {"file-name": 1}
    world.write(log_a="the same")
    (world.logs / "log.bob@example.org.2").write_text("the same")
    report = world.publish(check=LOG_RULES)
    assert (report.counts["refused"], report.counts["sent"]) == (2, 1)
    assert "bob@" not in "".join(world.stored())
    again = world.publish(check=LOG_RULES)
    assert (again.counts["refused"], again.counts["unchanged"]) == (2, 1)


def test_unredacted_content_goes_only_when_told_and_apart(world: World) -> None:
    """`allow_unredacted` sends it below `bodies/unredacted/`, where a bucket policy can tell it
    from the rest.
    """
    world.write(log_a="fine", log_b="SECRET")
    assert world.publish(allow_unredacted=True).counts["sent"] == 2
    assert [key.split("/")[1] for key in world.bodies()] == ["rules-3", "unredacted"]
    assert world.publish(allow_unredacted=True).counts["unchanged"] == 2
    report = world.publish()
    (refused,) = (file for file in report.files if file.outcome == "refused")
    assert (report.counts["unchanged"], refused.name) == (1, "log.b")
    assert "delete it there" in (refused.hint or "")
    assert {file.name: file.passed_rules for file in world.pull().files} == {
        "log.a": 3,
        "log.b": None,
    }


def test_newer_rules_look_again_without_sending_again(world: World) -> None:
    """Raising the rule-set version scans known content again; what passes is recorded, not sent,
    what does not is reported.
    """
    world.write(log_a="fine", log_b="a TOKEN")
    world.publish()
    newer = RedactionCheck(
        4, lambda _name, stream: {"token": (stream.read() or b"").count(b"TOKEN")}
    )
    report = world.publish(check=newer)
    assert (report.counts["renamed"], report.counts["refused"], report.body_bytes) == (1, 1, 0)
    (refused,) = (file for file in report.files if file.outcome == "refused")
    assert "published before" in (refused.hint or "")
    again = world.publish(check=newer)
    assert (again.counts["unchanged"], again.manifest) == (1, None)
    assert world.publish().counts["unchanged"] == 2, (
        "content that passed newer rules passes older ones"
    )


def test_raw_logs_need_both_words(world: World) -> None:
    """A raw log goes only with include_raw, and while it holds secrets only with allow_unredacted
    too.
    """
    (world.logs / "raw").mkdir()
    (world.logs / "raw/log.a").write_text("SECRET")
    assert world.publish().counts["sent"] == 0
    assert world.publish(include_raw=True).counts["refused"] == 1
    assert world.publish(include_raw=True, allow_unredacted=True).counts["sent"] == 1


def test_a_dry_run_says_the_same_and_writes_nothing(world: World) -> None:
    """The plan names what would be sent and refused, and the store does not even come into
    being.
    """
    world.write(log_a="fine", log_b="SECRET")
    plan = world.publish(dry_run=True)
    assert not world.store.exists()
    done = world.publish()
    assert plan.files == done.files
    assert plan.counts == done.counts
    assert (plan.body_bytes, plan.exit_code) == (done.body_bytes, done.exit_code)


def test_force_sends_known_content_again(world: World) -> None:
    """A body that was damaged in the store is made good by force."""
    world.write(log_a="content")
    world.publish()
    (key,) = world.bodies()
    (world.store / key).write_text("CONTENT")
    assert world.pull().exit_code == 6
    assert world.publish(force=True).counts["sent"] == 1
    assert world.pull().counts["fetched"] == 1


def test_unreadable_files_do_not_stop_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes under the scan is a failure; the rest is published, and the exit code is
    6.
    """
    world.write(log_a="one", log_b="two")

    def rewrite(name: str, stream: RawIOBase) -> dict[str, int]:
        if name == "log.a":
            (world.logs / name).write_text("ONE")
        return find_secret(name, stream)

    report = world.publish(check=RedactionCheck(3, rewrite))
    assert (report.counts["sent"], report.counts["failed"], report.exit_code) == (1, 1, 6)
    (failed,) = (file for file in report.files if file.outcome == "failed")
    assert failed.name == "log.a"
    assert world.publish().counts == Counter(
        sent=1, unchanged=1, renamed=0, refused=0, failed=0, recovered=0
    )


def test_a_lost_manifest_is_rebuilt(world: World) -> None:
    """With all manifests gone, pulling still finds every content, and the next publish names them
    again.
    """
    world.write(log_a="one", log_b="two")
    world.publish()
    for manifest in world.manifests():
        manifest.unlink()
    assert world.pull().counts["fetched"] == 2
    assert world.pulled() == {"log.a": "one", "log.b": "two"}
    (world.logs / "log.a").unlink()
    assert world.publish().counts == Counter(
        recovered=2, unchanged=1, sent=0, renamed=0, refused=0, failed=0
    )
    assert {file.name for file in world.pull().files} == {"log.a", "log.b"}


def test_a_damaged_manifest_is_rebuilt_and_kept_aside(world: World) -> None:
    """A manifest with a flipped bit is reported; pulling finds all contents all the same;
    publishing repairs it once.
    """
    world.write(log_a="one", log_b="two")
    world.publish()
    (manifest,) = world.manifests()
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 1
    manifest.write_bytes(data)
    pulled = world.pull()
    assert (pulled.damaged_manifests, pulled.counts["fetched"]) == (
        (f"manifests/{manifest.name}",),
        2,
    )
    (world.logs / "log.b").unlink()
    repaired = world.publish()
    assert (repaired.damaged_manifests, repaired.counts["recovered"]) == (
        pulled.damaged_manifests,
        2,
    )
    assert (world.publish().damaged_manifests, world.pull().damaged_manifests) == ((), ())
    assert manifest.read_bytes() == data


def test_one_of_several_lost_manifests_is_found_on_request(world: World) -> None:
    """When part of the record is gone nothing shows it; `rebuild` names the contents again, and
    leaves out damaged ones.
    """
    world.write(log_a="one", log_b="two", log_c="three")
    world.publish()
    for manifest in world.manifests():
        manifest.unlink()
    for name in ("log.a", "log.b"):
        (world.logs / name).unlink()
    # The next run of a publisher that read nothing: it names only its own.
    (world.store / "bodies").rename(world.store / "aside")
    world.publish()
    for body in (world.store / "aside/rules-3").iterdir():
        if not (world.store / "bodies/rules-3" / body.name).exists():
            body.rename(world.store / "bodies/rules-3" / body.name)
    assert {file.name for file in world.pull().files} == {"log.c"}
    assert {file.name for file in world.pull(rebuild=True).files} == {"log.a", "log.b", "log.c"}
    (damaged,) = (key for key in world.bodies() if key.endswith("log.b"))
    (world.store / damaged).write_text("TWO")
    report = world.publish(rebuild=True)
    assert (report.counts["recovered"], report.counts["failed"], report.exit_code) == (1, 1, 6)
    assert {file.name for file in world.pull().files} == {"log.a", "log.c"}


def test_pulling_from_nothing_is_an_error(world: World) -> None:
    """A store where nothing is published is most likely a wrong name, and is said so."""
    with pytest.raises(SourceError, match="nothing is published"):
        world.pull()
    assert not world.out.exists()


def test_an_empty_source_is_fine(world: World) -> None:
    """No logs, no news: nothing is written, exit code 0."""
    report = world.publish()
    assert (report.exit_code, sum(report.counts.values()), world.store.exists()) == (0, 0, False)


@pytest.mark.parametrize(
    "option", [{"acl": "private"}, {"endpoint_url": "http://x"}, {"storage_class": "GLACIER"}]
)
def test_options_of_s3_are_refused_for_a_folder(world: World, option: dict[str, str]) -> None:
    """An option that a folder cannot honour is an error, not ignored."""
    request = PublishRequest(f"file:{world.store}", world.logs, StoreOptions(**option))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="only S3"):
        publish_logs(request, check=CHECK)
