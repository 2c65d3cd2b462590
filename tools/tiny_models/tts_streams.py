"""Training streams of text to speech: sentences of one voice joined, their codes, and the text as
the product's own state machine feeds it.

The machine is asked at every step and told what a perfect model would say: the next word begins
when its sound is due. So forced pauses, words shown ahead and the end of the text are the same in
training and in the product.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from dsmops.worker.models.conventions import PADDING
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime.tts.machine import NEW_WORD, TtsEntry, TtsPacing, TtsTextMachine
from dsmops.worker.runtime.tts.script import MAIN_SPEAKER
from tools.tiny_models.batches import SAMPLE_RATE, Audio, Index
from tools.tiny_models.networks import Codec
from tools.tiny_models.settings import FRAME_S, VOICE_FRAMES

FIRST_FRAME = 3
"""The frame in which the first word sounds: its text comes two steps after the start."""
_SEGMENTS = 8
_PACING = TtsPacing()
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Streams:
    """Codes int16 [N, K, F], tokens int32 [N, T], actions int16 [N, T] and voices int64 [N].

    An action is the text token that the step must predict, `IGNORED` where the machine does not
    ask.
    """

    codes: Tensor
    tokens: Tensor
    actions: Tensor
    voices: Tensor


def schedule(
    words: list[tuple[int, ...]],
    starts_s: list[float],
    end_s: float,
    length: int,
    config: TtsConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that are fed and the actions wanted, int64 [T] each.

    `words` are the tokens of each word and `starts_s` when it sounds; `end_s` is when the last one
    stops.
    """
    machine = TtsTextMachine(
        ahead=config.second_stream_ahead,
        text_rows=config.shape.lm.text_in_vocab_size,
        pacing=_PACING,
    )
    machine.extend(
        TtsEntry(tokens, "", _PACING.padding_between + len(tokens) - 1) for tokens in words
    )
    due = [int(start / FRAME_S) - 1 for start in (*starts_s, end_s)]
    tokens, actions = np.zeros(length, np.int64), np.full(length, IGNORED, np.int64)
    begun = 0
    for step in range(length):
        wanted = NEW_WORD if begun < len(due) and due[begun] <= step else PADDING
        asked = machine.asks
        left = len(machine)
        token, entry = machine.step(step, wanted)
        tokens[step] = token
        if asked and begun < len(due):
            actions[step] = wanted
        begun += entry is not None
        if left == 0 and machine.end_step is not None:
            begun = len(due)
    return tokens, actions


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Which sentences follow each other in one stream, in seconds and samples, and its text."""

    source: np.ndarray
    out: np.ndarray
    stop: np.ndarray
    tokens: np.ndarray
    actions: np.ndarray
    voice: int


_Shared = tuple[Index, dict[str, tuple[int, ...]], tuple[int, ...], TtsConfig]
_SHARED: dict[str, _Shared] = {}
"""What forked processes read instead of getting it sent: sentences, pieces of each word, the piece
of a full stop, the model's config."""


def _plan_many(seed: int, voice: int, count: int, frames: int) -> list[StreamPlan]:
    index, pieces, stop_piece, config = _SHARED["plan"]
    rng = np.random.default_rng([seed, voice])
    group = np.flatnonzero(index.voice == voice)
    length = frames + config.delay_steps + config.max_delay
    plans = []
    for _ in range(count):
        source, out, stop = np.zeros(_SEGMENTS), np.full(_SEGMENTS, 1e9), np.zeros(_SEGMENTS)
        words: list[tuple[int, ...]] = []
        starts: list[float] = []
        at = (FIRST_FRAME + rng.random()) * FRAME_S
        end = at
        for segment in range(_SEGMENTS):
            number = int(group[rng.integers(len(group))])
            first, last = index.first[number], index.first[number + 1]
            begin = max(0.0, float(index.starts[number][0]) - 0.06)
            lead = float(index.starts[number][0]) - begin
            finish = float(index.ends[number][-1])
            duration = finish - begin - lead
            if segment and (at + duration > frames * FRAME_S - 0.5 or rng.random() < 0.12):
                break
            source[segment], out[segment] = first + begin * SAMPLE_RATE, at - lead
            # A sentence sounds to the end of its recording, at most 0.3 s after its last word.
            stop[segment] = min(last, first + (finish + 0.3) * SAMPLE_RATE)
            tokens = [pieces[word] for word in index.words[number]]
            if rng.random() < 0.7:
                tokens[-1] += stop_piece
            if not segment:
                tokens[0] = (MAIN_SPEAKER, *tokens[0])
            words += tokens
            starts += [at - lead + float(start) - begin for start in index.starts[number]]
            end = at + duration
            at = end + rng.uniform(0.3, 0.6)
        fed, actions = schedule(words, starts, end, length, config)
        plans.append(StreamPlan(source, out, stop, fed, actions, voice))
    return plans


def plan_streams(
    index: Index,
    tokenizer: Path,
    config: TtsConfig,
    *,
    voices: list[int],
    count: int,
    frames: int,
    seed: int,
    workers: int = 0,
) -> list[StreamPlan]:
    """Return plans of `count` streams of `frames` frames of each of `voices`, made by `workers`
    processes.
    """
    processor = SentencePieceProcessor(model_file=str(tokenizer))
    names = {word for line in index.words for word in line}
    pieces = {word: tuple(processor.encode(word)) for word in names}
    # A full stop behind a word is a piece of its own.
    stop_piece = tuple(processor.encode("go.")[len(processor.encode("go")) :])
    _SHARED["plan"] = (index, pieces, stop_piece, config)
    part = max(1, min(64, count))
    jobs = [
        (seed * 1000 + number, voice, min(part, count - number * part), frames)
        for voice in voices
        for number in range(-(-count // part))
    ]
    if not workers:
        return [plan for job in jobs for plan in _plan_many(*job)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        return [plan for made in pool.map(_plan_many, *zip(*jobs, strict=True)) for plan in made]


@torch.no_grad()
def encode_streams(
    plans: list[StreamPlan],
    audio: Audio,
    codec: Codec,
    config: TtsConfig,
    frames: int,
    batch: int = 128,
) -> Streams:
    """Return the streams of `plans`, encoded where `audio` lies."""
    codes = []
    books = config.shape.lm.audio_codebooks
    for first in range(0, len(plans), batch):
        group = plans[first : first + batch]
        plan = {
            "out": torch.from_numpy(np.stack([one.out for one in group])),
            "source": torch.from_numpy(np.stack([one.source for one in group])),
            "speed": torch.ones(len(group), _SEGMENTS),
            "stop": torch.from_numpy(np.stack([one.stop for one in group])),
        }
        pcm, _ = audio.assemble(plan, frames)
        latents = codec.encoder.latents(pcm[:, None])
        codes.append(codec.quantizer.encode(latents, books).short())
    device = audio.device
    return Streams(
        torch.cat(codes),
        torch.from_numpy(np.stack([one.tokens for one in plans])).to(device, torch.int32),
        torch.from_numpy(np.stack([one.actions for one in plans])).to(device, torch.int16),
        torch.tensor([one.voice for one in plans], device=device),
    )


@torch.no_grad()
def voice_prompts(
    index: Index, audio: Audio, codec: Codec, voice: int, count: int, seed: int
) -> Tensor:
    """Return `count` prompts of one voice, float32 [count, width, frames]: ten seconds of its
    sentences, as the latents that the acoustic codebooks quantise.
    """
    rng = np.random.default_rng([seed, voice, 99])
    group = np.flatnonzero(index.voice == voice)
    found = []
    for first in range(0, count, 32):
        rows = min(32, count - first)
        out, source, stop = np.full((rows, 12), 1e9), np.zeros((rows, 12)), np.zeros((rows, 12))
        for row in range(rows):
            at = 0.0
            for segment in range(12):
                number = int(group[rng.integers(len(group))])
                first_sample = index.first[number]
                start, end = float(index.starts[number][0]), float(index.ends[number][-1])
                out[row, segment], source[row, segment] = at, first_sample + start * SAMPLE_RATE
                stop[row, segment] = first_sample + end * SAMPLE_RATE
                at += end - start + 0.1
                if at > VOICE_FRAMES * FRAME_S:
                    break
        plan = {
            "out": torch.from_numpy(out),
            "source": torch.from_numpy(source),
            "speed": torch.ones(rows, 12),
            "stop": torch.from_numpy(stop),
        }
        pcm, _ = audio.assemble(plan, VOICE_FRAMES)
        found.append(codec.quantizer.rvq_rest.input_proj(codec.encoder.latents(pcm[:, None])))
    return torch.cat(found)


def usable_workers() -> int:
    """Return how many processes may plan streams."""
    return max(0, (os.cpu_count() or 1) - 2)
