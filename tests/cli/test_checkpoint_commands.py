"""`inspect`, `convert` and `verify` as a user meets them: text, JSON, exit codes, and words for
every mistake.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dsmops.cli.app import app
from tests.support.checkpoints import Stored, bf16, patterns, read_file, write_file, write_sharded
from tests.support.cli import dsmops
from tests.support.processes import python
from tests.support.synthetic import write_checkpoint

MODEL: dict[str, Stored] = {
    "emb.weight": bf16(1, 2, 1e-7, 1e-9),
    "norm.alpha": bf16(3),
    "step": ("I64", (1,), bytes(8)),
}
BAD: dict[str, Stored] = {**MODEL, "norm.alpha": bf16(1e30, float("nan"))}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_file(tmp_path / "model.safetensors", MODEL, {"format": "pt"})


def run(*args: str | Path) -> tuple[int, str]:
    """Run a command in this process; return exit code and stdout."""
    done = CliRunner().invoke(app, [*map(str, args)])
    return done.exit_code, done.stdout


def test_inspect_shows_what_a_file_holds(model: Path) -> None:
    """Dtypes with counts, parameters, tensors with shapes, metadata."""
    code, text = run("inspect", model)
    assert code == 0
    assert "3 tensors, 6 parameters" in text
    assert "norm.alpha" in text
    assert "format" in text


def test_inspect_shortens_the_list_of_tensors(tmp_path: Path) -> None:
    """Twelve tensors and how many more there are; --tensors lists all, JSON always does."""
    path = write_file(tmp_path / "x.safetensors", {f"t{number}": bf16(1) for number in range(40)})
    assert "and 28 more" in run("inspect", path)[1]
    assert "t39" in run("inspect", path, "--tensors")[1]
    assert len(json.loads(run("inspect", path, "--json")[1])["tensors"]) == 40


def test_inspect_scan_foretells_the_losses(model: Path) -> None:
    """The forecast has the same figures as the conversion afterwards, and only --scan asks
    for it.
    """
    document = json.loads(run("inspect", model, "--scan", "--json")[1])
    assert document["schema"] == "dsmops.inspect/1"
    assert document["forecast"]["totals"]["underflowed"] == 1
    assert document["forecast"]["totals"]["rounded"] == 1
    assert "1 to zero, 1 rounded" in run("inspect", model, "--scan")[1]
    assert json.loads(run("inspect", model, "--json")[1])["forecast"] is None


def test_inspect_knows_an_index(tmp_path: Path) -> None:
    """Files are listed with sizes, and a wrong `total_size` and unlisted tensors are reported."""
    folder = write_sharded(
        tmp_path,
        {"one.safetensors": {"a": bf16(1)}, "sub/two.safetensors": {"b": bf16(2), "c": bf16(3)}},
    )
    index = folder / "model.safetensors.index.json"
    body = json.loads(index.read_text())
    del body["weight_map"]["c"]
    index.write_text(json.dumps({**body, "metadata": {"total_size": 4}}))
    text = run("inspect", folder)[1]
    assert "sub/two.safetensors" in text
    assert "states 4 bytes of data, the shards hold 6" in text
    assert "1 tensor in the shards but not in the index: c" in text


def test_convert_reports_and_does_nothing_the_second_time(model: Path, tmp_path: Path) -> None:
    """The first run says what was lost, the licence once, and what to run next; the second says
    that it is up to date.
    """
    target = tmp_path / "out" / "model.fp16.safetensors"
    code, text = run("convert", model, target)
    assert code == 0
    assert "Of 5 values: 0 beyond the range, 1 to zero, 1 rounded, the rest exact" in text
    assert "licence" in text
    assert f"Next: dsmops verify {model} {target}" in text
    stamp = target.stat().st_mtime_ns
    code, text = run("convert", model, target)
    assert code == 0
    assert "up to date" in text
    assert "licence" not in text
    assert target.stat().st_mtime_ns == stamp
    assert json.loads(run("convert", model, target, "--json")[1])["status"] == "up to date"
    assert run("convert", model, target, "--force")[0] == 0
    assert target.stat().st_mtime_ns != stamp


def test_convert_json_is_the_whole_story(model: Path, tmp_path: Path) -> None:
    """One document with files, digests and every tensor's losses; --report writes the same to a
    file.
    """
    report = tmp_path / "reports" / "loss.json"
    code, text = run(
        "convert", model, tmp_path / "out.safetensors", "--json", "--verify", "--report", report
    )
    document = json.loads(text)
    assert code == 0
    assert document == json.loads(report.read_text())
    assert document["schema"] == "dsmops.convert/1"
    assert document["status"] == "converted"
    assert [tensor["name"] for tensor in document["conversion"]["losses"]["tensors"]] == [
        "emb.weight",
        "norm.alpha",
    ]
    assert len(document["conversion"]["targets"][0]["sha256"]) == 64
    assert document["verification"]["converted"] == 2


def test_convert_dry_run_writes_nothing(model: Path, tmp_path: Path) -> None:
    """It names files and sizes, which are those of the real run."""
    target = tmp_path / "new" / "out.safetensors"
    document = json.loads(run("convert", "--dry-run", "--json", model, target)[1])
    assert document["status"] == "planned"
    assert not target.parent.exists()
    assert "Nothing was written" in run("convert", "--dry-run", model, target)[1]
    run("convert", model, target)
    assert document["files"] == [
        {"path": str(target), "size_bytes": target.stat().st_size, "cast": 2, "copied": 1}
    ]


def test_convert_without_digest_and_fsync(model: Path, tmp_path: Path) -> None:
    """The bytes are the same; the report says that there is no digest."""
    run("convert", model, tmp_path / "a.safetensors")
    code, text = run(
        "convert", "--no-digest", "--no-fsync", "--json", model, tmp_path / "b.safetensors"
    )
    assert code == 0
    assert json.loads(text)["conversion"]["sources"][0]["sha256"] is None
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_convert_stops_at_values_that_do_not_fit(tmp_path: Path) -> None:
    """Exit code 3, the tensor named, both ways out in the hint, nothing written; each way out then
    works and says what it did.
    """
    source = write_file(tmp_path / "in.safetensors", BAD)
    target = tmp_path / "out.safetensors"
    done = dsmops("convert", source, target)
    assert done.code == 3
    assert "norm.alpha (1 of 2" in done.stderr
    assert "clamp" in done.stderr
    assert "keep-f32" in done.stderr
    assert not target.exists()
    assert "1 NaN" in run("convert", source, target, "--on-overflow", "clamp")[1]
    assert read_file(target)[0]["norm.alpha"][2][:2] == patterns(0x7BFF)
    assert (
        "moshi-server casts every tensor"
        in run("convert", source, target, "--on-overflow", "keep-f32")[1]
    )
    assert read_file(target)[0]["norm.alpha"][0] == "F32"


def test_verify_says_yes_or_no(model: Path, tmp_path: Path) -> None:
    """Exit code 0 and the counts, or 1 and the first differing element, in text and in JSON."""
    target = tmp_path / "out.safetensors"
    run("convert", model, target)
    code, text = run("verify", model, target)
    assert code == 0
    assert "2 converted tensors and 1 untouched" in text
    tensors, metadata = read_file(target)
    write_file(target, {**tensors, "norm.alpha": ("F16", (1,), patterns(0x4201))}, metadata)
    code, text = run("verify", model, target)
    assert code == 1
    assert (
        "norm.alpha: 1 of 1 elements differ (BF16 to F16), first element 0: 0x4040 became 0x4201,"
        " not 0x4200" in text
    )
    code, text = run("verify", "--json", model, target)
    assert code == 1
    assert json.loads(text)["differences"][0]["tensor"] == "norm.alpha"
    assert run("verify", "--quiet", model, target) == (1, "")


def test_verify_after_converting_trusts_digests_only(model: Path, tmp_path: Path) -> None:
    """`convert --verify` does not believe size and time: a silently damaged target is made
    again.
    """
    target = tmp_path / "out.safetensors"
    run("convert", model, target)
    wanted, status = target.read_bytes(), target.stat()
    target.write_bytes(wanted[:-1] + bytes([wanted[-1] ^ 1]))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert "up to date" in run("convert", model, target)[1]
    assert "every value compared" in run("convert", "--verify", model, target)[1]
    assert target.read_bytes() == wanted


def test_a_file_of_another_origin_is_replaced_with_force_only(model: Path, tmp_path: Path) -> None:
    """Swapped arguments do not cost a checkpoint; what `convert` made it may replace, even
    damaged.
    """
    other = write_file(tmp_path / "other.safetensors", {"x": bf16(9)})
    before = other.read_bytes()
    for option in ("--dry-run", "--quiet"):
        done = dsmops("convert", option, model, other)
        assert (done.code, "dsmops did not make it" in done.stderr) == (3, True)
        assert other.read_bytes() == before
    assert run("convert", "--force", model, other)[0] == 0
    assert run("convert", "--dtype", "f32", model, other)[0] == 0
    other.write_bytes(b"damaged")
    assert run("convert", model, other)[0] == 0
    other.with_name("other.safetensors.dsmops.json").unlink()
    assert run("convert", "--dtype", "f32", model, other)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "hard.safetensors",
        "sub/../out.safetensors",
        ".out.safetensors.dsmops-partial",
    ],
)
def test_a_report_never_overwrites_a_checkpoint(model: Path, tmp_path: Path, name: str) -> None:
    """Neither the source nor what is being written, however it is spelled."""
    (tmp_path / "hard.safetensors").hardlink_to(model)
    (tmp_path / "sub").mkdir()
    before = model.read_bytes()
    done = dsmops("convert", "model.safetensors", "out.safetensors", "--report", name, cwd=tmp_path)
    assert done.code == 3
    assert "the report would overwrite" in done.stderr
    assert model.read_bytes() == before
    assert not (tmp_path / "out.safetensors").exists()


def test_a_report_that_cannot_be_written_is_told_before_the_work(
    model: Path, tmp_path: Path
) -> None:
    """A folder or a pipe for a report: exit code 3, no target, and the pipe is still one."""
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        assert dsmops("convert", model, "out.safetensors", "--report", name, cwd=tmp_path).code == 3
    assert (tmp_path / "pipe").is_fifo()
    assert not (tmp_path / "out.safetensors").exists()


def test_a_dry_run_says_what_it_cannot_count(model: Path, tmp_path: Path) -> None:
    """Which tensors overflow is known only once the values are read."""
    assert (
        "Not counted: tensors"
        in run(
            "convert", "--dry-run", "--on-overflow", "keep-f32", model, tmp_path / "x.safetensors"
        )[1]
    )


MISTAKES = {
    "no such source": (["inspect", "absent"], 3),
    "empty source": (["convert", "", "out.safetensors"], 3),
    "no such user": (["inspect", "~nobody-of-that-name/model.safetensors"], 3),
    "source is a pickle": (["convert", "model.bin", "out.safetensors"], 3),
    "source is no checkpoint": (["inspect", "notes.safetensors"], 3),
    "folder without one": (["inspect", "empty"], 3),
    "target is the source": (["convert", "model.safetensors", "model.safetensors"], 3),
    "target is no checkpoint name": (["convert", "model.safetensors", "out"], 3),
    "target is a device": (["convert", "model.safetensors", "/dev/null"], 3),
    "impossible dtype": (["convert", "--dtype", "bf16", "model.safetensors", "out.safetensors"], 3),
    "unknown dtype": (["convert", "--dtype", "int8", "model.safetensors", "out.safetensors"], 2),
    "unknown policy": (
        ["convert", "--on-overflow", "ignore", "model.safetensors", "out.safetensors"],
        2,
    ),
    "pattern without a match": (
        ["convert", "--keep-f32", "zzz*", "model.safetensors", "out.safetensors"],
        3,
    ),
    "target missing": (["convert", "model.safetensors"], 2),
    "verify without target file": (["verify", "model.safetensors", "absent.safetensors"], 3),
    "verify with itself": (["verify", "model.safetensors", "model.safetensors"], 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_clear_error(model: Path, name: str) -> None:
    """An error that names the thing, the right exit code, no traceback, nothing written."""
    folder = model.parent
    (folder / "model.bin").write_bytes(b"\x80\x02}q\x00.")
    (folder / "notes.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    arguments, code = MISTAKES[name]
    done = dsmops(*arguments, cwd=folder)
    assert done.code == code
    assert "rror: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(folder.rglob("*")) == before


def test_errors_are_json_too(model: Path) -> None:
    """With --json stdout stays empty and stderr carries code, message and hint."""
    done = dsmops("inspect", "--json", "absent", cwd=model.parent)
    assert done.stdout == ""
    assert json.loads(done.stderr)["error"].keys() == {"code", "message", "hint"}


def test_a_hostile_name_does_not_drive_the_terminal(tmp_path: Path) -> None:
    """Control characters of tensor names come out spelled."""
    path = write_file(tmp_path / "x.safetensors", {"evil\x1b[31m\r": bf16(1)})
    text = run("inspect", path)[1]
    assert "evil\\x1b[31m\\x0d" in text
    assert "\x1b[31m" not in text


@pytest.mark.heavy
def test_progress_is_drawn_on_a_terminal_only(tmp_path: Path) -> None:
    """Long work shows rate and time left on a terminal, and nothing at all elsewhere."""
    source = tmp_path / "in.safetensors"
    write_checkpoint(source, {"a": ("BF16", (400_000_000,))})
    code = (
        "import dsmops.report.bars as bars; bars.SHOW_AFTER_S = 0;"
        " bars.BarProgress.__init__.__defaults__ = (0,); from dsmops.cli.main import main; raise"
        " SystemExit(main())"
    )
    terminal, inside = pty.openpty()
    command = [
        *python(),
        "-c",
        code,
        "convert",
        "--no-fsync",
        str(source),
        str(tmp_path / "out.safetensors"),
    ]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=inside,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(inside)
    drawn = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        drawn += piece
    child.communicate()
    assert child.returncode == 0
    assert b"Converting" in drawn
    assert b"MB/s" in drawn
    assert dsmops("convert", "--force", source, tmp_path / "out.safetensors").stderr == ""
