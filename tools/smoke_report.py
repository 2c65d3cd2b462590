"""`python -m tools.smoke_report`: `prep-sm75` and `smoke-test` with a full-size 1B model.

The weights are random. It runs twice: as it is, which must pass, and with one NaN among its
weights, which must fail. The card is simulated for the preparation only, so that f16 is prepared on
any machine; serving uses the card that is there. Needs 7 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dsmops.models import DEFAULT_STT, STT_MODELS
from tests.support.synthetic import write_checkpoint
from tools.full_size import write_codec, write_tokenizer

NAME = DEFAULT_STT.name
NAN = {"transformer.layers.7.gating.linear_out.weight": {12_345: 0x7FC0}}


def write_files(folder: Path) -> None:
    """Write tokenizer and Mimi of the published sizes, under the published names."""
    model = STT_MODELS[NAME]
    write_tokenizer(folder / model.tokenizer_file, model.shape.text_out_vocab_size)
    write_codec(folder / model.mimi_file)


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one dsmops command, and show it with its time."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "dsmops", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    print(
        f"$ dsmops {' '.join(words)}   # exit code {done.returncode},"
        f" {time.perf_counter() - begin:.1f} s",
        flush=True,
    )
    if done.stderr:
        print(done.stderr, flush=True)
    return done


def prepare_and_test(folder: Path, *, broken: bool, more: list[str]) -> bool:
    """Return whether the smoke test passed."""
    shape = STT_MODELS[NAME].shape
    weights = folder / STT_MODELS[NAME].model_file
    layout = {tensor: ("BF16", size) for tensor, size in shape.tensors().items()}
    write_checkpoint(weights, layout, plant=NAN if broken else {})
    output = folder / ("broken.fp16.safetensors" if broken else "sound.fp16.safetensors")
    prepared = command(
        folder,
        "prep-sm75",
        "--simulate",
        "t4",
        "--input-path",
        str(weights),
        "--output",
        str(output),
    )
    print(prepared.stdout)
    tested = command(
        folder, "smoke-test", "--config", str(output.with_suffix(".toml")), "--json", *more
    )
    found = json.loads(tested.stdout)
    for check in found["checks"]:
        print(
            f"  {check['name']:<15} {check['status']:<8} {check['seconds']:7.2f} s "
            f" {check['evidence']}"
        )
    print(found["verdict"], flush=True)
    output.unlink()
    return bool(found["passed"])


def main(arguments: list[str] | None = None) -> int:
    """Report on both; the exit code says whether they did as they must."""
    parser = argparse.ArgumentParser(prog="python -m tools.smoke_report", description=__doc__)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("more", nargs="*", help="further arguments for smoke-test, behind --")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).absolute()
        folder.mkdir(exist_ok=True)
        write_files(folder)
        passed = [
            prepare_and_test(folder, broken=broken, more=chosen.more) for broken in (False, True)
        ]
    return 0 if passed == [True, False] else 1


if __name__ == "__main__":
    sys.exit(main())
