"""Generated checkpoints: exact layouts, repeatable bytes, values like a trained model's."""

from pathlib import Path

import numpy as np
import pytest

from dsmops.checkpoint import identify, open_checkpoint, read_header, scan
from dsmops.checkpoint.header import render_header
from dsmops.dtypes import StorageDType
from dsmops.models import MODELS
from tests.support.checkpoints import read_file
from tests.support.synthetic import POOL_ELEMENTS, planned_tensors, write_checkpoint
from tests.support.tiny_checkpoint import published_layout
from tools import make_checkpoint


@pytest.mark.parametrize(
    ("name", "published_bytes"),
    [
        ("stt-1b-en_fr", 1_978_522_200),
        ("stt-2.6b-en", 5_234_275_128),
        ("tts-1.6b-en_fr", 3_683_719_712),
    ],
)
def test_the_published_layouts_have_the_published_size(name: str, published_bytes: int) -> None:
    """Header and data together are as large as the file on the hub, so names, shapes, dtypes and
    header style agree.
    """
    tensors = planned_tensors(published_layout(MODELS[name].shape))
    assert (
        len(render_header(tensors, {})) + sum(tensor.nbytes for tensor in tensors)
        == published_bytes
    )


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """And another one others."""
    layout = {"a": ("BF16", (100, 30)), "b": ("F32", (7,)), "c": ("U8", (5,))}
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        write_checkpoint(tmp_path / name, layout, seed=seed)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert (tmp_path / "x").read_bytes() != (tmp_path / "z").read_bytes()


def test_values_look_trained(tmp_path: Path) -> None:
    """Matrices spread as 1/√fan-in with a few outliers, norms lie around 1, and almost nothing is
    lost in F16.
    """
    path = tmp_path / "x.safetensors"
    write_checkpoint(
        path,
        {
            "w": ("BF16", (2000, 1024)),
            "norm.alpha": ("BF16", (1, 1, 1024)),
            "f": ("F16", (1000, 64)),
        },
    )
    report = scan(open_checkpoint(path), StorageDType.F16)
    assert report.totals.overflowed == 0
    assert 0 < report.totals.rounded < report.totals.elements // 1000
    weights, norms = report.tensors
    assert weights.largest_magnitude is not None
    assert 8 / 32 < weights.largest_magnitude < 100 / 32
    assert norms.largest_magnitude is not None
    assert 1.1 < norms.largest_magnitude < 3
    half = np.frombuffer(read_file(path)[0]["f"][2], np.float16).astype(np.float64)
    assert half.std() == pytest.approx(1 / 8, rel=0.1)


def test_patterns_are_planted_where_they_were_asked_for(tmp_path: Path) -> None:
    """At the named element, also far behind the first block."""
    path = tmp_path / "x.safetensors"
    last = 2 * POOL_ELEMENTS + 5
    write_checkpoint(path, {"w": ("BF16", (last + 1,))}, plant={"w": {0: 0x7FC0, last: 0x47C0}})
    data = np.frombuffer(read_file(path)[0]["w"][2], "<u2")
    assert (data[0], data[last]) == (0x7FC0, 0x47C0)
    (loss,) = scan(open_checkpoint(path), StorageDType.F16).tensors
    assert (loss.nan, loss.overflowed) == (1, 1)


@pytest.mark.slow
def test_the_command_makes_small_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With layers cut away it is still the same kind of model, and says how large it is."""
    path = tmp_path / "tiny.safetensors"
    assert make_checkpoint.main([str(path), "--layers", "0", "--nan", "out_norm.alpha"]) == 0
    assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out
    assert identify(read_header(path).tensors).nearest == "stt-1b-en_fr"
    with pytest.raises(SystemExit):
        make_checkpoint.main([str(path), "--overflow", "no.such.tensor"])
