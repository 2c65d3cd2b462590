"""Knowing that there is nothing to do: quickly, and never wrongly."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.checkpoint import (
    ConversionPlan,
    OverflowPolicy,
    convert,
    is_current,
    plan_conversion,
    record,
)
from dsmops.dtypes import StorageDType
from dsmops.files import replace_atomically
from tests.support.checkpoints import bf16, write_file, write_sharded


@pytest.fixture
def plan(tmp_path: Path) -> ConversionPlan:
    """A conversion that has been done."""
    write_file(tmp_path / "in.safetensors", {"a": bf16(1, 2), "b": bf16(3)})
    made = plan_conversion(
        tmp_path / "in.safetensors", tmp_path / "out.safetensors", StorageDType.F16
    )
    convert(made)
    return made


def planned_again(plan: ConversionPlan, **changes: object) -> ConversionPlan:
    options = {
        "on_overflow": plan.on_overflow,
        "keep_f32": plan.keep_f32,
        "dtype": plan.dtype,
        **changes,
    }
    return plan_conversion(plan.checkpoint.path, plan.target, **options)  # type: ignore[arg-type]


def test_a_finished_conversion_is_current(plan: ConversionPlan) -> None:
    """By sizes, times and headers, and with `full` by digests as well."""
    assert is_current(planned_again(plan))
    assert is_current(planned_again(plan), full=True)


def test_the_report_survives_in_the_record(plan: ConversionPlan) -> None:
    """What `convert` returned is what the record gives back."""
    report = convert(plan)
    assert record.load(plan.record_path) == report


@pytest.mark.parametrize(
    "options",
    [{"dtype": StorageDType.F32}, {"on_overflow": OverflowPolicy.CLAMP}, {"keep_f32": ("a",)}],
    ids=["dtype", "policy", "patterns"],
)
def test_other_options_are_other_work(plan: ConversionPlan, options: dict[str, object]) -> None:
    """A target made with other options is not what is wanted now."""
    assert not is_current(planned_again(plan, **options))


def rewrite_source(plan: ConversionPlan) -> None:
    write_file(plan.checkpoint.path, {"a": bf16(1, 2), "b": bf16(4)})


def rename_tensor(plan: ConversionPlan) -> None:
    status = plan.checkpoint.path.stat()
    write_file(plan.checkpoint.path, {"a": bf16(1, 2), "c": bf16(3)})
    os.utime(plan.checkpoint.path, ns=(status.st_mtime_ns, status.st_mtime_ns))


def damage_target(plan: ConversionPlan) -> None:
    raw = bytearray(plan.target.read_bytes())
    raw[-1] ^= 1
    plan.target.write_bytes(raw)


def cut_target(plan: ConversionPlan) -> None:
    plan.target.write_bytes(plan.target.read_bytes()[:-1])


def remove_target(plan: ConversionPlan) -> None:
    plan.target.unlink()


def remove_record(plan: ConversionPlan) -> None:
    plan.record_path.unlink()


def empty_record(plan: ConversionPlan) -> None:
    plan.record_path.write_text("{}")


def nonsense_record(plan: ConversionPlan) -> None:
    plan.record_path.write_text("[" * 100_000)


def pipe_for_a_record(plan: ConversionPlan) -> None:
    plan.record_path.unlink()
    os.mkfifo(plan.record_path)


def shorten_record(plan: ConversionPlan) -> None:
    text = plan.record_path.read_text()
    plan.record_path.write_text(text[: len(text) // 2])


def older_recipe(plan: ConversionPlan) -> None:
    found = record.load(plan.record_path)
    assert found is not None
    with replace_atomically(plan.record_path) as partial:
        record.save(replace(found, recipe=0), partial)


def rewrite_record(plan: ConversionPlan, **changes: object) -> None:
    plan.record_path.write_text(json.dumps({**json.loads(plan.record_path.read_text()), **changes}))


def keep_a_list(plan: ConversionPlan) -> None:
    rewrite_record(plan, kept_f32=[["a"]])


def keep_a_number(plan: ConversionPlan) -> None:
    rewrite_record(plan, kept_f32=[5])


def keep_what_is_not_there(plan: ConversionPlan) -> None:
    rewrite_record(plan, kept_f32=["ghost"])


CHANGES = [
    rewrite_source,
    rename_tensor,
    damage_target,
    cut_target,
    remove_target,
    remove_record,
    empty_record,
    nonsense_record,
    pipe_for_a_record,
    shorten_record,
    older_recipe,
    keep_a_list,
    keep_a_number,
    keep_what_is_not_there,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_any_change_is_noticed(
    plan: ConversionPlan, change: Callable[[ConversionPlan], None]
) -> None:
    """A source, target or record that is not as the conversion left it means converting again,
    never an error.
    """
    change(plan)
    assert not is_current(planned_again(plan))


def test_damage_that_keeps_size_and_time_is_found_by_the_full_check(plan: ConversionPlan) -> None:
    """The quick check trusts size, mtime and header; the full one reads every byte."""
    status = plan.target.stat()
    damage_target(plan)
    os.utime(plan.target, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert is_current(planned_again(plan))
    assert not is_current(planned_again(plan), full=True)


def test_a_touched_or_copied_source_is_still_the_same(plan: ConversionPlan) -> None:
    """Where only the mtime moved, digests decide; without recorded digests the work is done
    again.
    """
    os.utime(plan.checkpoint.path, ns=(1, 1))
    assert is_current(planned_again(plan))
    convert(planned_again(plan), digest=False)
    assert is_current(planned_again(plan))
    os.utime(plan.checkpoint.path, ns=(2, 2))
    assert not is_current(planned_again(plan))


def test_tensors_kept_by_the_overflow_policy_are_remembered(tmp_path: Path) -> None:
    """The plan cannot know them before reading the values; the record can."""
    source = write_file(tmp_path / "in.safetensors", {"a": bf16(1e30), "b": bf16(3)})
    plan = plan_conversion(
        source, tmp_path / "out.safetensors", StorageDType.F16, on_overflow=OverflowPolicy.KEEP_F32
    )
    convert(plan)
    assert is_current(plan)


def test_a_sharded_target_is_current_only_with_its_index(tmp_path: Path) -> None:
    """Every shard and the index count."""
    source = write_sharded(
        tmp_path / "in", {"one.safetensors": {"a": bf16(1)}, "sub/two.safetensors": {"b": bf16(2)}}
    )
    plan = plan_conversion(source, tmp_path / "out", StorageDType.F16)
    convert(plan)
    assert is_current(plan, full=True)
    index = tmp_path / "out" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("two", "one"))
    assert not is_current(plan)
    index.unlink()
    os.mkfifo(index)
    assert not is_current(plan)


def test_the_quick_check_needs_no_numpy(plan: ConversionPlan) -> None:
    """Looking at headers and a record is cheap to start: numpy, which only data need, is not even
    imported.
    """
    code = (
        "import sys; from pathlib import Path; from dsmops.dtypes import StorageDType; from"
        " dsmops.checkpoint import is_current, plan_conversion;"
        " source, target = map(Path, sys.argv[1:]);"
        " print(is_current(plan_conversion(source, target, StorageDType.F16)),"
        " 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, plan.checkpoint.path, plan.target],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "False"]
