"""The main job at full size: the published 1B layout, 1.98 GB, from a local path and from a hub, to
a config without lint errors.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsmops.checkpoint import open_checkpoint
from dsmops.models import MIMI_TENSOR_PROBES, STT_MODELS
from tests.support.cli import Run, dsmops
from tests.support.hub_server import HubServer
from tests.support.synthetic import write_checkpoint

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

MODEL = STT_MODELS["stt-1b-en_fr"]
PUBLISHED_BYTES = 1_978_522_200
MAX_RSS = """
import os, resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "dsmops", *sys.argv[1:]], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, in the published layout and size, with values like a trained model's."""
    path = tmp_path_factory.mktemp("published") / MODEL.model_file
    write_checkpoint(
        path, {name: ("BF16", shape) for name, shape in MODEL.shape.tensors().items()}, seed=1
    )
    assert path.stat().st_size == PUBLISHED_BYTES
    return path


@pytest.fixture
def hub(weights: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A hub on loopback that has it, with a tokenizer and a Mimi file."""
    write_checkpoint(
        tmp_path / "mimi", {name: ("F32", shape) for name, shape in MIMI_TENSOR_PROBES.items()}
    )
    piece = b"\x0a\x03\x0a\x01a"
    files = {
        MODEL.model_file: weights,
        MODEL.mimi_file: tmp_path / "mimi",
        MODEL.tokenizer_file: piece * 8000,
    }
    with HubServer({MODEL.hf_repo: files}) as server:
        yield server.env(tmp_path / "hf")


def check_result(run: Run, folder: Path) -> None:
    """The command ended well; the output is f16 throughout, equal value by value, and the config
    names it without lint errors.
    """
    assert run.code == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert [
        finding for finding in report["lint"]["findings"] if finding["severity"] == "error"
    ] == []
    config = tomllib.loads((folder / report["config_path"]).read_text())["modules"]["asr"]
    assert config["dtype_override"] == "f16"
    converted = Path(config["lm_model_file"])
    assert {tensor.dtype for tensor in open_checkpoint(converted).tensors.values()} == {"F16"}
    assert report["conversion"]["losses"]["totals"]["overflowed"] == 0


def test_from_a_local_path(weights: Path, tmp_path: Path) -> None:
    """Prepared, verified, and left alone the second time."""
    arguments = ("prep-sm75", "--simulate", "t4", "--input-path", weights, "--json")
    check_result(dsmops(*arguments, cwd=tmp_path, timeout_s=300), tmp_path)
    assert (
        dsmops(
            "verify", weights, "assets/fp16/model.fp16.safetensors", cwd=tmp_path, timeout_s=300
        ).code
        == 0
    )
    assert dsmops(*arguments, cwd=tmp_path).document["outcome"] == "up to date"


def test_from_a_hub(hub: dict[str, str], tmp_path: Path) -> None:
    """Downloaded into the cache, prepared, and the second time ready without a network."""
    arguments = ("prep-sm75", "--simulate", "t4", "--json")
    first = dsmops(*arguments, cwd=tmp_path, env=hub, timeout_s=300)
    check_result(first, tmp_path)
    assert {part["step"] for part in first.document["parts"]} >= {"download", "convert", "write"}
    again = dsmops(*arguments, cwd=tmp_path, env={**hub, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert again.code == 0, again.stderr
    assert again.document["outcome"] == "up to date"


def test_memory_stays_small(weights: Path, tmp_path: Path) -> None:
    """Converting 1.98 GB holds at most 128 MiB."""
    arguments = ["convert", str(weights), str(tmp_path / "out.safetensors"), "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", MAX_RSS, *arguments],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=300,
        check=True,
    )
    assert int(done.stdout) * (1 if sys.platform == "darwin" else 1024) <= 128 * 2**20
