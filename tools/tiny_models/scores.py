"""Words, times and pauses of a language model on evaluation sentences, decoded in one batch where
the training runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from tools.tiny_models.batches import Audio, Index, read_shards
from tools.tiny_models.data import CHOICE_FILE, UNHEARD_FILE, VOICES
from tools.tiny_models.networks import Codec, SttNet, greedy
from tools.tiny_models.settings import DELAY_STEPS, FRAME_S

_LEAD_S = 0.3
_TAIL_S = 4.0


def edits(wanted: list[str], heard: list[str]) -> int:
    """Return the least number of words to change, leave out or add."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]


def alone(index: Index, frames: int) -> dict[str, Tensor]:
    """Return the plan of one stream for each sentence: a short silence, the sentence, silence to
    the end.
    """
    count = len(index.voice)
    out = np.full((count, 1), _LEAD_S)
    return {
        "out": torch.from_numpy(out),
        "source": torch.from_numpy(index.first[:-1, None].astype(float)),
        "speed": torch.ones(count, 1),
        "stop": torch.from_numpy(index.first[1:, None].astype(float)),
    }


@torch.no_grad()
def evaluate(
    net: SttNet,
    codec: Codec,
    path: Path,
    processor: SentencePieceProcessor,
    device: torch.device,
    delay: int = DELAY_STEPS,
    at_most: int = 10**9,
) -> dict[str, Any]:
    """Return WER by voice and of every other sentence, the median error of word starts in ms, and
    the share of turn ends told within 0.5 s.
    """
    index, audio, labels = read_shards([path])
    store = Audio(audio, labels, device)
    lengths = np.diff(index.first) / 24_000
    frames = int(np.ceil((lengths.max() + _LEAD_S + _TAIL_S) / FRAME_S))
    plan = alone(index, frames)
    wrong, total = dict.fromkeys(VOICES, 0), dict.fromkeys(VOICES, 0)
    halves = np.zeros((2, 2), int)
    off: list[float] = []
    told = early = turns = 0
    examples: list[tuple[str, str, str]] = []
    chosen = np.linspace(0, len(index.voice) - 1, min(at_most, len(index.voice))).astype(int)
    for rows in np.array_split(chosen, max(1, len(chosen) // 128)):
        pcm, _ = store.assemble({name: part[rows] for name, part in plan.items()}, frames)
        codes = codec.quantizer.encode(
            codec.encoder.latents(pcm[:, None]), net.lm.shape.audio_codebooks
        )
        tokens, pauses = (part.cpu().numpy() for part in greedy(net, codes))
        for row, line, pause in zip(rows, tokens, pauses, strict=True):
            words, begins = words_of(line, processor, delay)
            wanted = index.words[row]
            voice = VOICES[index.voice[row]]
            found = edits(wanted, words)
            wrong[voice] += found
            total[voice] += len(wanted)
            halves[row % 2] += found, len(wanted)
            if words == wanted:
                off += list(np.abs(np.array(begins) - _LEAD_S - index.starts[row]))
            end = _LEAD_S + float(index.ends[row][-1])
            turns += 1
            # Step t knows the frames up to t - 1, that is (t) · 80 ms.
            fired = np.flatnonzero(pause[:, 2] > 0.5) * FRAME_S
            fired = fired[fired > _LEAD_S + float(index.starts[row][0]) + 0.3]
            early += bool(len(fired)) and fired[0] < end - 0.3
            told += bool(len(fired)) and end - 0.3 <= fired[0] <= end + 0.5
            if len(examples) < 400:
                examples.append((voice, " ".join(wanted), " ".join(words)))
    return {
        "wer": {
            voice: round(100 * wrong[voice] / total[voice], 2) for voice in VOICES if total[voice]
        },
        "wer_all": round(100 * sum(wrong.values()) / sum(total.values()), 2),
        "wer_halves": [round(100 * found / max(count, 1), 2) for found, count in halves.tolist()],
        "words": sum(total.values()),
        "word_ms": round(1000 * float(np.median(off)), 1) if off else None,
        "turns_told": round(told / turns, 3),
        "turns_early": round(early / turns, 3),
        "examples": examples,
    }


def judge(
    net: SttNet,
    codec: Codec,
    tests: Path,
    processor: SentencePieceProcessor,
    device: torch.device,
    delay: int = DELAY_STEPS,
) -> dict[str, Any]:
    """Return the WER, in percent, on the voices of a folder that were never trained on.

    Choose between models by `wer_choice` (speakers of Kokoro) and by the first of the halves of
    `wer_unheard_halves`, and report the second.
    """
    found: dict[str, Any] = {}
    unheard = evaluate(net, codec, tests / UNHEARD_FILE, processor, device, delay)
    found["wer_unheard"], found["wer_unheard_halves"] = unheard["wer_all"], unheard["wer_halves"]
    if (tests / CHOICE_FILE).exists():
        choice = evaluate(net, codec, tests / CHOICE_FILE, processor, device, delay)
        found["wer_choice"] = choice["wer_all"]
    return found


def words_of(
    tokens: np.ndarray, processor: SentencePieceProcessor, delay: int
) -> tuple[list[str], list[float]]:
    """Return words and their starts by the rule of the server: a word lies between tokens 0
    or 3.
    """
    words: list[str] = []
    starts: list[float] = []
    held: list[int] = []
    boundary = 0.0
    for step, token in enumerate([*tokens.tolist(), 3]):
        if step + 1 < delay:
            continue
        if token in (0, 3):
            if held:
                said = processor.decode(held).split()
                words += said
                starts += [boundary] * len(said)
                held = []
        else:
            held.append(token)
        if token == 0:
            boundary = (step + 1 - delay) * FRAME_S
    return words, starts
