"""Average language models that trained apart from one start: `python -m tools.tiny_models.soup
TOKENIZER OUT FOLDER... --start START`.

Each FOLDER is one that `train_stt` wrote, with a seed of its own, from START or from a mean. START
counts as one of them, or by the share `--back`. Means of models that share a start are better on
other voices than most of their parts.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from tools.tiny_models.batches import write_json
from tools.tiny_models.export import MIMI_FILE, keep_bits, write_stt
from tools.tiny_models.scores import evaluate
from tools.tiny_models.train_stt import start
from tools.tiny_models.training import set_up


def mixed(parts: list[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Return the weighted sum of weights."""
    return {
        name: torch.stack([share * weights[name].float() for share, weights in parts]).sum(0)
        for name in parts[0][1]
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--back", type=float, help="share of START; by default that of each model")
    parser.add_argument("--tests", type=Path)
    parser.add_argument("--bits", type=int, default=5, help="significant bits that weights keep")
    arguments = parser.parse_args()
    device = set_up(1)
    codec, net = start(arguments.start, device)
    net.requires_grad_(False)
    count = len(arguments.folders)
    back = 1 / (count + 1) if arguments.back is None else arguments.back
    parts = [(back, {name: value.clone() for name, value in net.state_dict().items()})]
    for folder in arguments.folders:
        weights = torch.load(folder / "stt.pt", map_location=device)
        parts.append(((1 - back) / count, weights))
    mean = {name: keep_bits(value, arguments.bits) for name, value in mixed(parts).items()}
    net.load_state_dict(mean)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_stt(net.lm, arguments.out)
    shutil.copy(arguments.start / MIMI_FILE, arguments.out)
    if arguments.tests:
        processor = SentencePieceProcessor(model_file=str(arguments.tokenizer))
        results = {}
        for path in sorted(arguments.tests.glob("test-*.npz")):
            results[path.stem] = evaluate(net, codec, path, processor, device)
            results[path.stem].pop("examples")
            print(path.stem, results[path.stem], flush=True)
        write_json(arguments.out / "soup.json", results)


if __name__ == "__main__":
    main()
