"""Conversions from end to end, on small files: values, names, order, metadata, policies, and what
is left when something fails.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.checkpoint import (
    ConversionReport,
    OverflowPolicy,
    convert,
    is_current,
    plan_conversion,
    scan,
    verify,
)
from dsmops.checkpoint.blocks import BLOCK_BYTES
from dsmops.checkpoint.plan import lay_out
from dsmops.checkpoint.shards import open_checkpoint, open_shard
from dsmops.dtypes import StorageDType
from dsmops.errors import CheckpointError, DiskFullError, InputError, SourceError, TensorRangeError
from dsmops.files import partial_path, sha256
from tests.support.checkpoints import (
    Stored,
    bf16,
    f16_of,
    f32_of,
    file_bytes,
    framed,
    patterns,
    read_file,
    value_of,
    write_file,
    write_sharded,
)
from tests.support.synthetic import write_checkpoint

MIXED: dict[str, Stored] = {
    "z.first": bf16(1.5, -2.25, 0.0, 1e-6),
    "bytes": ("U8", (3,), b"abc"),
    "a.matrix": ("BF16", (2, 3), patterns(0x3F80, 0xBF80, 0x7FC0, 0x7F80, 0x8000, 0x0001)),
    "float": ("F32", (1,), b"\x01\x02\x03\x04"),
    "half": ("F16", (2,), b"\x05\x06\x07\x08"),
    "eight bits": ("F8_E4M3", (2,), b"\x09\x0a"),
    "four bits": ("F4", (4,), b"\x0b\x0c"),
    "whole": ("I64", (1,), bytes(range(8))),
    "scalar": ("BF16", (), patterns(0x4000)),
    "empty": ("BF16", (0, 7), b""),
    "": ("BF16", (1,), patterns(0xC000)),
    'name "with" \\ é 😀': ("BF16", (1, 1, 1), patterns(0x3F00)),
}
"""Odd sizes throughout, so most tensors begin unaligned."""


def run(
    source: Path,
    target: Path,
    dtype: StorageDType = StorageDType.F16,
    on_overflow: str = "fail",
    keep_f32: tuple[str, ...] = (),
) -> ConversionReport:
    return convert(
        plan_conversion(
            source, target, dtype, on_overflow=OverflowPolicy(on_overflow), keep_f32=keep_f32
        )
    )


def cast(stored: Stored, dtype: str) -> Stored:
    """What a tensor must become, by the oracle."""
    kind, shape, raw = stored
    if kind != "BF16" or dtype == "BF16":
        return stored
    bits = [int.from_bytes(raw[at : at + 2], "little") for at in range(0, len(raw), 2)]
    if dtype == "F16":
        return "F16", shape, patterns(*map(f16_of, bits))
    return "F32", shape, b"".join(f32_of(pattern).to_bytes(4, "little") for pattern in bits)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [StorageDType.F16, StorageDType.F32])
def test_bf16_is_cast_and_everything_else_stays(tmp_path: Path, dtype: StorageDType) -> None:
    """Names, order, shapes, metadata and all other dtypes are kept; every BF16 value is what exact
    arithmetic gives.
    """
    source = write_file(tmp_path / "in.safetensors", MIXED, {"format": "pt", "note": "é"})
    run(source, tmp_path / "out.safetensors", dtype)
    tensors, metadata = read_file(tmp_path / "out.safetensors")
    assert list(tensors) == list(MIXED)
    assert tensors == {name: cast(stored, dtype) for name, stored in MIXED.items()}
    assert metadata == {
        "format": "pt",
        "note": "é",
        "dsmops.source": "in.safetensors",
        "dsmops.dtype": dtype.value,
        "dsmops.on_overflow": "fail",
        "dsmops.recipe": "1",
        "dsmops.licence": "that of the source",
    }
    assert leftovers(tmp_path) == [
        "in.safetensors",
        "out.safetensors",
        "out.safetensors.dsmops.json",
    ]


def test_other_programs_read_the_target(tmp_path: Path) -> None:
    """The safetensors library opens the file and torch agrees on every value."""
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    source = write_file(
        tmp_path / "in.safetensors",
        {name: stored for name, stored in MIXED.items() if stored[0] in {"BF16", "F32", "I64"}},
    )
    run(source, tmp_path / "out.safetensors")
    before, after = load_file(source), load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        wanted = tensor.to(torch.float16) if tensor.dtype == torch.bfloat16 else tensor
        assert torch.equal(after[name].nan_to_num(nan=7.0), wanted.nan_to_num(nan=7.0))
        assert after[name].dtype == wanted.dtype


def test_header_order_and_data_order_may_differ(tmp_path: Path) -> None:
    """A header that lists tensors in another order than their data keeps both orders."""
    raw = framed(
        '{"b":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]},"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}',
        patterns(0x3F80, 0x4000),
    )
    (tmp_path / "in.safetensors").write_bytes(raw)
    run(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    header = open_checkpoint(tmp_path / "out.safetensors").shards[0].header
    assert [(tensor.name, tensor.begin) for tensor in header.tensors.values()] == [
        ("b", 2),
        ("a", 0),
    ]
    assert read_file(tmp_path / "out.safetensors")[0]["b"][2] == patterns(0x4000)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Output does not depend on digests, fsync, time or folder; only on source, name and
    options.
    """
    outputs = []
    for number, (digest, fsync) in enumerate([(True, True), (False, False), (True, False)]):
        source = write_file(tmp_path / str(number) / "in.safetensors", MIXED)
        target = tmp_path / f"out{number}.safetensors"
        convert(plan_conversion(source, target, StorageDType.F16), digest=digest, fsync=fsync)
        outputs.append(target.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.sampled_from(["BF16", "U8", "F32"]), st.integers(0, 9)), max_size=8),
    st.randoms(),
)
def test_any_layout_comes_out_whole(
    tmp_path_factory: pytest.TempPathFactory, layout: list[tuple[str, int]], random: object
) -> None:
    """Whatever dtypes and sizes follow each other, every tensor of the target is what the oracle
    says.
    """
    folder = tmp_path_factory.mktemp("any")
    sizes = {"BF16": 2, "U8": 1, "F32": 4}
    stored: dict[str, Stored] = {
        f"t{number}": (dtype, (count,), random.randbytes(count * sizes[dtype]))  # type: ignore[attr-defined]
        for number, (dtype, count) in enumerate(layout)
    }
    source = write_file(folder / "in.safetensors", stored)
    run(source, folder / "out.safetensors", StorageDType.F32, "clamp")
    assert read_file(folder / "out.safetensors")[0] == {
        name: cast(tensor, "F32") for name, tensor in stored.items()
    }


@pytest.mark.slow
def test_tensors_larger_than_all_blocks_come_out_whole(tmp_path: Path) -> None:
    """Odd headers and odd tensors put element and block boundaries everywhere; the digests are
    those of the files.
    """
    count = 5 * BLOCK_BYTES // 2 + 12_345
    source = tmp_path / "in.safetensors"
    write_checkpoint(
        source,
        {"odd": ("U8", (3,)), "large": ("BF16", (count,)), "tail": ("U8", (BLOCK_BYTES + 1,))},
    )
    for dtype in (StorageDType.F16, StorageDType.F32):
        report = run(source, tmp_path / "out.safetensors", dtype)
        before, after = read_file(source)[0], read_file(tmp_path / "out.safetensors")[0]
        assert after["odd"] == before["odd"]
        assert after["tail"] == before["tail"]
        assert after["large"][2] == _large_cast(before["large"][2], dtype)
        for file, path in (
            (report.sources[0], source),
            (report.targets[0], tmp_path / "out.safetensors"),
        ):
            done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
            assert file.sha256 == done.stdout.split()[0]
            assert file.size_bytes == path.stat().st_size


def _large_cast(raw: bytes, dtype: StorageDType) -> bytes:
    np = pytest.importorskip("numpy")
    table = np.array(
        [(f16_of if dtype is StorageDType.F16 else f32_of)(pattern) for pattern in range(1 << 16)],
        "<u2" if dtype is StorageDType.F16 else "<u4",
    )
    return bytes(table[np.frombuffer(raw, "<u2")].tobytes())


def test_losses_are_reported_per_tensor(tmp_path: Path) -> None:
    """Counts per tensor and their sum are exact, `scan` foresees them, and copied tensors are not
    listed.
    """
    source = write_file(
        tmp_path / "in.safetensors",
        {
            "fine": bf16(1, 2),
            "lossy": ("BF16", (6,), patterns(0x0001, 0x3380, 0x3701, 0x7FC0, 0xFF80, 0x4380)),
            "copied": ("F32", (1,), bytes(4)),
        },
    )
    report = run(source, tmp_path / "out.safetensors").losses
    assert [loss.name for loss in report.tensors] == ["fine", "lossy"]
    lossy = report.tensors[1]
    assert (lossy.elements, lossy.underflowed, lossy.rounded, lossy.subnormal) == (6, 1, 0, 2)
    assert (lossy.nan, lossy.infinite, lossy.overflowed, lossy.largest_magnitude) == (
        1,
        1,
        0,
        value_of(0x4380),
    )
    assert report.totals.elements == 8
    assert report.totals.largest_magnitude == 256.0
    assert scan(open_checkpoint(source), StorageDType.F16) == report


HUGE: dict[str, Stored] = {
    "norm": bf16(1.0, 70_000.0, -1e30, float("inf")),
    "also": bf16(66_000.0),
    "fine": bf16(2.0, 65_280.0),
}


def test_overflow_fails_by_default_and_names_the_tensors(tmp_path: Path) -> None:
    """The error has every tensor at fault with its counts, worst first, and nothing is left."""
    source = write_file(tmp_path / "in.safetensors", HUGE)
    with pytest.raises(
        TensorRangeError, match=r"2 tensors .* norm \(2 of 4, up to 9.9\d+e\+29\), also \(1 of 1"
    ) as caught:
        run(source, tmp_path / "out.safetensors")
    assert "clamp" in caught.value.hint
    assert "fine" not in caught.value.message
    assert leftovers(tmp_path) == ["in.safetensors"]


def test_overflow_can_be_clamped(tmp_path: Path) -> None:
    """Finite values beyond the range become ±65504 and are counted; what is infinite already stays
    infinite.
    """
    source = write_file(tmp_path / "in.safetensors", HUGE)
    report = run(source, tmp_path / "out.safetensors", on_overflow="clamp")
    assert read_file(tmp_path / "out.safetensors")[0]["norm"][2] == patterns(
        0x3C00, 0x7BFF, 0xFBFF, 0x7C00
    )
    assert (report.losses.totals.overflowed, report.losses.totals.infinite) == (3, 1)


def test_overflowing_tensors_can_stay_f32(tmp_path: Path) -> None:
    """Only the tensors with values beyond the range are stored as F32, exactly; the report names
    them.
    """
    source = write_file(tmp_path / "in.safetensors", HUGE)
    report = run(source, tmp_path / "out.safetensors", on_overflow="keep-f32")
    tensors, _ = read_file(tmp_path / "out.safetensors")
    assert {name: dtype for name, (dtype, _, _) in tensors.items()} == {
        "norm": "F32",
        "also": "F32",
        "fine": "F16",
    }
    assert tensors["norm"] == cast(HUGE["norm"], "F32")
    assert report.kept_f32 == ("norm", "also")
    assert report.losses.totals.overflowed == 0


def test_named_tensors_can_stay_f32(tmp_path: Path) -> None:
    """A pattern keeps what it matches as F32; one that matches nothing is a mistake, not a wish."""
    source = write_file(tmp_path / "in.safetensors", HUGE)
    report = run(
        source, tmp_path / "out.safetensors", on_overflow="clamp", keep_f32=("n*", "al[sx]o")
    )
    assert report.kept_f32 == ("norm", "also")
    assert read_file(tmp_path / "out.safetensors")[0]["also"] == cast(HUGE["also"], "F32")
    with pytest.raises(InputError, match="condition"):
        plan_conversion(
            source, tmp_path / "out.safetensors", StorageDType.F16, keep_f32=("condition_*",)
        )


SHARDS: dict[str, dict[str, Stored]] = {
    "one.safetensors": {"a": bf16(1, 2)},
    "sub/two.safetensors": {"b": bf16(3), "c": ("U8", (3,), b"xyz")},
}
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("exists", [True, False])
def test_a_sharded_source_becomes_a_sharded_folder(tmp_path: Path, exists: bool) -> None:
    """Same file names and map, `total_size` of the new data, other index metadata kept; nothing
    else in the folder.
    """
    source = write_sharded(tmp_path / "in", SHARDS)
    index = json.loads((source / INDEX).read_text())
    (source / INDEX).write_text(
        json.dumps({**index, "metadata": {**index["metadata"], "who": "me"}})
    )
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    report = run(source, target, StorageDType.F32)
    made = json.loads((target / INDEX).read_text())
    assert made == {"metadata": {"total_size": 15, "who": "me"}, "weight_map": index["weight_map"]}
    assert read_file(target / "sub/two.safetensors")[0] == {
        "b": cast(bf16(3), "F32"),
        "c": ("U8", (3,), b"xyz"),
    }
    assert leftovers(target) == sorted(
        [INDEX, f"{INDEX}.dsmops.json", "one.safetensors", "two.safetensors"]
    )
    assert [file.name for file in report.targets] == ["one.safetensors", "sub/two.safetensors"]


def test_a_sharded_source_can_become_one_file(tmp_path: Path) -> None:
    """A target that ends in .safetensors gets all tensors; a name in two shards cannot be
    joined.
    """
    source = write_sharded(tmp_path / "in", SHARDS)
    run(source, tmp_path / "all.safetensors")
    assert list(read_file(tmp_path / "all.safetensors")[0]) == ["a", "b", "c"]
    write_file(source / "sub/two.safetensors", {**SHARDS["sub/two.safetensors"], "a": bf16(9)})
    with pytest.raises(CheckpointError, match="'a' is in more than one shard"):
        plan_conversion(source, tmp_path / "all.safetensors", StorageDType.F16)


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_tensors_that_the_index_does_not_name_are_converted_all_the_same(
    tmp_path: Path, name: str
) -> None:
    """They travel with their shard: policies, patterns and verification hold for them as well."""
    source = write_sharded(
        tmp_path / "in", {"one.safetensors": {"a": bf16(1), "stray": bf16(1e30), "named": bf16(2)}}
    )
    index = json.loads((source / INDEX).read_text())
    (source / INDEX).write_text(json.dumps({**index, "weight_map": {"a": "one.safetensors"}}))
    report = run(source, tmp_path / name, on_overflow="keep-f32", keep_f32=("named",))
    assert report.kept_f32 == ("stray", "named")
    assert is_current(
        plan_conversion(
            source,
            tmp_path / name,
            StorageDType.F16,
            on_overflow=OverflowPolicy.KEEP_F32,
            keep_f32=("named",),
        )
    )
    assert verify(source, tmp_path / name).same


def test_a_failing_shard_leaves_the_whole_folder_as_it_was(tmp_path: Path) -> None:
    """When the last shard cannot be converted, the shards before it are not replaced either."""
    source = write_sharded(tmp_path / "in", SHARDS)
    run(source, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write_sharded(
        source, {"one.safetensors": {"a": bf16(5, 6)}, "sub/two.safetensors": {"b": bf16(1e30)}}
    )
    with pytest.raises(TensorRangeError):
        run(source, tmp_path / "out")
    assert {
        path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()
    } == before


def test_a_single_file_can_go_into_an_existing_folder(tmp_path: Path) -> None:
    """It keeps its name there."""
    source = write_file(tmp_path / "in.safetensors", HUGE)
    (tmp_path / "out").mkdir()
    run(source, tmp_path / "out", StorageDType.F32)
    assert (tmp_path / "out" / "in.safetensors").exists()


def same_path(source: Path) -> Path:
    return source


def hard_link(source: Path) -> Path:
    link = source.with_name("hard.safetensors")
    os.link(source, link)
    return link


def soft_link(source: Path) -> Path:
    link = source.with_name("soft.safetensors")
    link.symlink_to(source.name)
    return link


def own_folder(source: Path) -> Path:
    return source.parent


def leftover_of_itself(source: Path) -> Path:
    """The name under which a target is written is that of the source."""
    target = source.with_name("other.safetensors")
    os.link(source, partial_path(target))
    return target


@pytest.mark.parametrize(
    "make_target", [same_path, hard_link, soft_link, own_folder, leftover_of_itself]
)
def test_the_source_is_never_the_target(
    tmp_path: Path, make_target: Callable[[Path], Path]
) -> None:
    """Under any of its names, and its bytes stay."""
    source = write_file(tmp_path / "in.safetensors", MIXED)
    target = make_target(source)
    with pytest.raises(InputError, match="is the source itself"):
        plan_conversion(source, target, StorageDType.F16)
    assert source.read_bytes() == file_bytes(MIXED)


@pytest.mark.parametrize("name", ["model.bin", "out", "out.safetensors.txt", "pipe.safetensors"])
def test_a_target_that_is_no_checkpoint_name_is_refused(tmp_path: Path, name: str) -> None:
    """A single file needs a .safetensors name or an existing folder, and a pipe is never
    replaced.
    """
    source = write_file(tmp_path / "in.safetensors", MIXED)
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=name):
        plan_conversion(source, tmp_path / name, StorageDType.F16)


def test_a_header_longer_than_the_format_allows_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata of the target come on top of the source's; what would not open again is refused
    before the work.
    """
    source = write_file(tmp_path / "in.safetensors", MIXED)
    monkeypatch.setattr("dsmops.checkpoint.plan.MAX_HEADER_BYTES", 500)
    with pytest.raises(CheckpointError, match=r"header of \d+ bytes; the format allows 500"):
        plan_conversion(source, tmp_path / "out.safetensors", StorageDType.F16)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 only")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Files are called by bytes: whatever those are, the conversion goes through and is known to be
    done afterwards.
    """
    source = write_file(tmp_path / os.fsdecode(b"in\xff.safetensors"), MIXED)
    target = tmp_path / os.fsdecode(b"out\xfe.safetensors")
    run(source, target)
    assert read_file(target)[1]["dsmops.source"] == "in?.safetensors"
    assert is_current(plan_conversion(source, target, StorageDType.F16), full=True)


@pytest.mark.parametrize(
    "folder", ["out.safetensors.dsmops.json", ".out.safetensors.dsmops.json.dsmops-partial"]
)
def test_a_record_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, folder: str
) -> None:
    """No target appears without its record."""
    source = write_file(tmp_path / "in.safetensors", MIXED)
    (tmp_path / folder).mkdir()
    with pytest.raises(InputError, match="is a folder"):
        run(source, tmp_path / "out.safetensors")
    assert leftovers(tmp_path) == ["in.safetensors"]


def test_what_cannot_be_made_is_refused_with_what_can(tmp_path: Path) -> None:
    """BF16 is not a target; the message lists those that are."""
    source = write_file(tmp_path / "in.safetensors", MIXED)
    with pytest.raises(InputError, match="F16 or F32"):
        plan_conversion(source, tmp_path / "out.safetensors", StorageDType.BF16)
    with pytest.raises(SourceError):
        plan_conversion(
            tmp_path / "absent.safetensors", tmp_path / "out.safetensors", StorageDType.F16
        )


def test_an_existing_target_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    """The old bytes go, permission bits stay."""
    source = write_file(tmp_path / "in.safetensors", MIXED)
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"old")
    target.chmod(0o640)
    run(source, target)
    assert list(read_file(target)[0]) == list(MIXED)
    assert target.stat().st_mode & 0o777 == 0o640


def test_space_is_checked_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without space gives an error with both numbers, and leaves nothing."""
    source = write_file(tmp_path / "in.safetensors", MIXED)
    monkeypatch.setattr("dsmops.files.free_bytes", lambda folder: 100)
    with pytest.raises(DiskFullError) as caught:
        run(source, tmp_path / "out.safetensors")
    assert caught.value.free_bytes == 100
    assert caught.value.need_bytes is not None
    assert caught.value.need_bytes > 100
    assert leftovers(tmp_path) == ["in.safetensors"]


def test_a_digest_of_a_hub_cache_is_taken_only_for_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob is hashed once; later its digest is known, until anything about the file changes."""
    write_file(tmp_path / "blobs" / "new", MIXED)
    digest = sha256(tmp_path / "blobs" / "new")
    blob = (tmp_path / "blobs" / "new").rename(tmp_path / "blobs" / digest)
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert open_shard(link, link.name).known_sha256 is None
    assert run(link, tmp_path / "out.safetensors").sources[0].sha256 == digest
    assert open_shard(link, link.name).known_sha256 == digest

    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert open_shard(link, link.name).known_sha256 is None
    with pytest.raises(CheckpointError, match="changed since it was downloaded") as caught:
        run(link, tmp_path / "other.safetensors")
    assert str(blob) in caught.value.hint
    assert not (tmp_path / "other.safetensors").exists()


def test_every_tensor_is_aligned_to_its_item_size(tmp_path: Path) -> None:
    """An F32 tensor behind a half-precision one of odd length moves to the front."""
    source = tmp_path / "in.safetensors"
    write_file(source, {"a": bf16(1, 2, 3), "b": bf16(1, 2, 3, 4), "c": bf16(1, 2, 3, 4, 5)})
    plan = plan_conversion(source, tmp_path / "out.safetensors", StorageDType.F16, keep_f32=("b",))
    plan = lay_out(plan, {"b"})
    (file,) = plan.files
    starts = {tensor.target.name: tensor.target.begin for tensor in file.tensors}
    assert starts["b"] % 4 == 0
    assert starts == {"b": 0, "a": 16, "c": 22}


PEAK = """
import sys
from pathlib import Path
from dsmops.cli.main import main

code = main()
# Not ru_maxrss: that begins with what the parent of this process held.
status = Path("/proc/self/status").read_text().splitlines()
peak = next(line for line in status if line.startswith("VmHWM:"))
print(peak.split()[1], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_stays_below_128_mib_whatever_the_tensor_size(tmp_path: Path) -> None:
    """One tensor of 600 MB is converted, scanned and verified by processes that never hold more
    than 128 MiB.
    """
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    write_checkpoint(source, {"one": ("BF16", (300_000_000,))})
    for command in (
        ["convert", source, target],
        [
            "convert",
            "--dtype",
            "f32",
            "--no-digest",
            "--no-fsync",
            source,
            tmp_path / "out32.safetensors",
        ],
        ["inspect", "--scan", source],
        ["verify", source, target],
    ):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, command)],
            capture_output=True,
            text=True,
            check=True,
        )
        peak_bytes = int(done.stderr.split()[-1]) * 1024
        assert peak_bytes < 128 << 20, command[0]
