"""Write the recordings by which the smoke test judges words: `python -m
tools.tiny_models.recordings TESTS OUT`.

TESTS is the folder that `python -m tools.tiny_models.data TESTS --test 100` wrote. Each recording
is two of its sentences by one voice. The manifest says where each word begins, as the synthesiser
knows it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dsmops.audio import SAMPLE_RATE_HZ, write
from dsmops.operations.smoke.words import MANIFEST
from tools.tiny_models.batches import read_shards
from tools.tiny_models.data import VOICES

LEVEL = 0.06
"""RMS of each sentence."""
_LEAD_S, _PAUSE_S = 0.2, 0.5

CHOSEN = (
    (
        "rms",
        "yesterday my bitter path covers frank again",
        "the old aunt also studied some fish tomorrow",
    ),
    (
        "rms",
        "there are fifteen guests near the restaurant",
        "there are sixty two restaurants across the shop",
    ),
    (
        "rms",
        "set a timer for six thousand thirty nine minutes",
        "eleven happy bears sailed on the valley",
    ),
    (
        "joe",
        "gate seventy eight is wet",
        "helen started the beautiful chimney between the clever hotel",
    ),
)
"""Voice and sentences of each recording, none of them trained on.

They are the two voices that the model finds hardest, and sentences that it gets right: it is close
to an error there, so a damaged model makes one. Easy speech forgives too much. Choose again when
another model gets more than one word of them wrong.
"""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    index, audio, _ = read_shards(
        [arguments.tests / f"test-{name}.npz" for name in ("known", "unheard")]
    )
    rows = {
        (VOICES[index.voice[row]], " ".join(index.words[row])): row
        for row in range(len(index.voice))
    }
    lines = []
    for number, (voice, *sentences) in enumerate(CHOSEN, start=1):
        pieces = [np.zeros(round(_LEAD_S * SAMPLE_RATE_HZ), np.float32)]
        starts: list[float] = []
        for sentence in sentences:
            row = rows[voice, sentence]
            begin_s = sum(map(len, pieces)) / SAMPLE_RATE_HZ
            samples = audio[index.first[row] : index.first[row + 1]].astype(np.float32) / 32768
            pieces += [
                samples * (LEVEL / np.sqrt(np.mean(samples**2))),
                np.zeros(round(_PAUSE_S * SAMPLE_RATE_HZ), np.float32),
            ]
            starts += [round(begin_s + float(start), 3) for start in index.starts[row]]
        name = f"{number}-{voice}.flac"
        write(arguments.out / name, [np.concatenate(pieces)])
        row_of_manifest = {
            "audio": name,
            "text": " ".join(sentences),
            "word_starts_s": starts,
        }
        lines.append(json.dumps(row_of_manifest))
    (arguments.out / MANIFEST).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
