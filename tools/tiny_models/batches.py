"""Training examples: sentences joined to streams, with their tokens, on the device where the
training runs.

A stream is planned on a processor core (which sentence, how fast, how long the pause) and put
together on the device, where all audio lies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tools.tiny_models.data import LABEL_SAMPLES, SHARES, VOICES
from tools.tiny_models.settings import DELAY_STEPS, FRAME_S, FRAME_SAMPLES, PAUSES_S

SAMPLE_RATE = 24_000
PADDING, NEW_WORD = 3, 0
_SEGMENTS = 24
"""No stream holds more sentences than this."""


@dataclass(slots=True)
class Index:
    """What is known of each sentence, without its audio."""

    first: np.ndarray
    voice: np.ndarray
    words: list[list[str]]
    starts: list[np.ndarray]
    ends: list[np.ndarray]


def read_shards(paths: list[Path]) -> tuple[Index, np.ndarray, np.ndarray]:
    """Return the index, the audio int16 [N] and the labels uint8 [N / 240] of all shards
    together.
    """
    first, voice, words, starts, ends = [np.zeros(1, np.int64)], [], [], [], []
    for path in paths:
        with np.load(path) as shard:
            first.append(shard["first"][1:] + first[-1][-1])
    # Room for all of it first: joining the parts at the end would need all of it twice.
    audio = np.empty(first[-1][-1], np.int16)
    labels = np.empty(len(audio) // LABEL_SAMPLES, np.uint8)
    for number, path in enumerate(paths):
        begin, end = first[number][-1], first[number + 1][-1]
        with np.load(path) as shard:
            audio[begin:end] = shard["audio"]
            labels[begin // LABEL_SAMPLES : end // LABEL_SAMPLES] = shard["label"]
            voice.append(shard["voice"])
            lines = [line.split() for line in shard["text"].tobytes().decode().split("\n")]
            cuts = np.cumsum([len(line) for line in lines])[:-1]
            words += lines
            starts += np.split(shard["word_start"], cuts)
            ends += np.split(shard["word_end"], cuts)
    return (
        Index(np.concatenate(first), np.concatenate(voice), words, starts, ends),
        audio,
        labels,
    )


@dataclass(frozen=True, slots=True)
class Pauses:
    """How sentences follow each other: with probability `joined` after a short pause, `between`
    after one of up to 2 s, else after 2 to 5 s.
    """

    joined: float
    between: float
    longest_s: float = 5.0


CLOSE = Pauses(joined=0.85, between=0.13)
SPOKEN = Pauses(joined=0.55, between=0.07)


class Planner(IterableDataset[dict[str, Tensor]]):
    """Endless plans of `batch` streams of `frames` frames."""

    def __init__(
        self,
        index: Index,
        pieces: dict[str, list[int]],
        *,
        batch: int,
        frames: int,
        pauses: Pauses,
        seed: int,
        vary: bool = True,
        delay: int = DELAY_STEPS,
    ) -> None:
        (
            self.index,
            self.pieces,
            self.batch,
            self.frames,
            self.pauses,
            self.seed,
            self.vary,
            self.delay,
        ) = (
            index,
            pieces,
            batch,
            frames,
            pauses,
            seed,
            vary,
            delay,
        )
        self._of_voice = [np.flatnonzero(index.voice == number) for number in range(len(VOICES))]
        self._voice_weights = voice_weights(index.voice)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        while True:
            yield self.plan(rng)

    def plan(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return one batch: `out` seconds [B, S], `source` samples [B, S], `speed`, `stop` samples,
        `tokens`, `pauses`.
        """
        batch, length = self.batch, self.frames * FRAME_S
        out = np.full((batch, _SEGMENTS), 1e9)
        source, speed, stop = (
            np.zeros((batch, _SEGMENTS)),
            np.ones((batch, _SEGMENTS)),
            np.zeros((batch, _SEGMENTS)),
        )
        tokens = np.full((batch, self.frames), PADDING, np.int64)
        for row in range(batch):
            voice = rng.choice(len(VOICES), p=self._voice_weights)
            group = self._of_voice[voice]
            pace = math.exp(rng.uniform(-0.30, 0.25)) if self.vary else 1.0
            at = float(
                rng.choice([0.0, rng.uniform(0, 0.5), rng.uniform(0, 2.5)], p=[0.3, 0.5, 0.2])
            )
            # Some streams begin in the middle of a sentence, as the windows of a longer recording
            # do.
            skip, free = rng.random() < 0.15, 0
            for segment in range(_SEGMENTS):
                number = int(group[rng.integers(len(group))])
                starts, ends = self.index.starts[number], self.index.ends[number]
                begin = max(0.0, float(starts[0]) - rng.uniform(0.0, 0.1))
                if skip and segment == 0 and len(starts) > 2:
                    begin = float(starts[1])
                end = float(ends[-1]) + rng.uniform(0.02, 0.12)
                first = self.index.first[number]
                out[row, segment], speed[row, segment] = at, pace
                source[row, segment] = first + begin * SAMPLE_RATE
                stop[row, segment] = min(first + end * SAMPLE_RATE, self.index.first[number + 1])
                for word, start in zip(self.index.words[number], starts, strict=True):
                    if start < begin - 0.01 and skip and segment == 0:
                        continue
                    when = at + (float(start) - begin) / pace
                    place = max(self.delay - 1 + round(when / FRAME_S), free)
                    ids = self.pieces[word]
                    if place >= self.frames:
                        break
                    tokens[row, place] = NEW_WORD
                    rest = ids[: self.frames - place - 1]
                    tokens[row, place + 1 : place + 1 + len(rest)] = rest
                    free = place + 1 + len(ids)
                at += (end - begin) / pace
                draw = rng.random()
                if draw < self.pauses.joined:
                    at += rng.uniform(0.0, 0.2)
                elif draw < self.pauses.joined + self.pauses.between:
                    at += rng.uniform(0.5, 1.9)
                else:
                    at += rng.uniform(2.0, self.pauses.longest_s)
                if at > length:
                    break
        return {
            "out": torch.from_numpy(out),
            "source": torch.from_numpy(source),
            "speed": torch.from_numpy(speed),
            "stop": torch.from_numpy(stop),
            "tokens": torch.from_numpy(tokens),
            "pauses": torch.from_numpy(pause_targets(tokens)),
        }


def voice_weights(voice: np.ndarray) -> np.ndarray:
    """Return the share of the streams of each of `VOICES`, given the voice uint8 [U] of each
    sentence: its share of training where all have one, else its share of the sentences.
    """
    counts = np.bincount(voice, minlength=len(VOICES)).astype(float)
    weights = np.array([SHARES.get(name, 0.0) for name in VOICES]) * (counts > 0)
    if np.any((counts > 0) & (weights == 0)):
        weights = counts
    return weights / weights.sum()


def pause_targets(tokens: np.ndarray) -> np.ndarray:
    """Return int64 [B, T, heads]: 0 where no word joins the transcript within the head's time, 1
    where one does, -100 where the end hides it.
    """
    batch, length = tokens.shape
    following = np.full((batch, length), 10_000)
    nearest = np.full(batch, 10_000)
    for step in range(length - 1, -1, -1):
        following[:, step] = nearest
        nearest = np.where(tokens[:, step] == NEW_WORD, 0, nearest) + 1
    targets = []
    left = length - 1 - np.arange(length)
    for pause in PAUSES_S:
        steps = round(pause / FRAME_S)
        target = np.where(following <= steps, 1, 0)
        targets.append(np.where((target == 0) & (left < steps)[None], -100, target))
    return np.stack(targets, -1).astype(np.int64)


def loader(planner: Planner, workers: int) -> Iterator[dict[str, Tensor]]:
    """Return the planner's batches, planned ahead by `workers` processes."""
    if workers == 0:
        return iter(planner)
    return iter(
        DataLoader(
            planner,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4,
            persistent_workers=True,
        )
    )


class Audio:
    """All speech on one device."""

    def __init__(self, audio: np.ndarray, labels: np.ndarray, device: torch.device) -> None:
        self.audio = torch.from_numpy(audio).to(device)
        self.labels = torch.from_numpy(labels).to(device)
        self.device = device

    def assemble(self, plan: dict[str, Tensor], frames: int) -> tuple[Tensor, Tensor]:
        """Return PCM [B, T · 1920] in [-1, 1] and phoneme labels int64 [B, T, 4], one for every 20
        ms.
        """
        parts = {
            name: plan[name].to(self.device, torch.float64)
            for name in ("out", "source", "speed", "stop")
        }
        place, inside = self._positions(
            parts,
            torch.arange(frames * FRAME_SAMPLES, device=self.device, dtype=torch.float64)
            / SAMPLE_RATE,
        )
        index = place.long().clamp_(0, len(self.audio) - 2)
        share = (place - index).float()
        pcm = (
            torch.lerp(self.audio[index].float(), self.audio[index + 1].float(), share)
            * inside
            / 32768
        )
        place, inside = self._positions(
            parts,
            (torch.arange(frames * 4, device=self.device, dtype=torch.float64) + 0.5) * FRAME_S / 4,
        )
        labels = (
            self.labels[(place / LABEL_SAMPLES).long().clamp_(0, len(self.labels) - 1)].long()
            * inside
        )
        return pcm, labels.unflatten(1, (frames, 4))

    @staticmethod
    def _positions(parts: dict[str, Tensor], time: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each moment of each stream the source sample, and whether a sentence sounds
        there.
        """
        rows = len(parts["out"])
        segment = (
            torch.searchsorted(
                parts["out"].contiguous(), time.expand(rows, -1).contiguous(), right=True
            )
            - 1
        ).clamp_(min=0)
        start, source, speed, stop = (
            parts[name].gather(1, segment) for name in ("out", "source", "speed", "stop")
        )
        place = source + (time - start) * speed * SAMPLE_RATE
        return place, (place < stop) & (time >= start)


def shift_formants(
    pcm: Tensor,
    low: float = 0.78,
    high: float = 1.28,
    *,
    uneven: float = 0.0,
    contrast: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Return `pcm` [B, N] with the spectrum's envelope of each row stretched by its own factor, the
    pitch left alone.

    The envelope is the smooth part of the logarithmic spectrum: its first 40 cepstral values.
    `uneven` is the spread of the factor's logarithm between 0, 1.5, 3, 6 and 12 kHz, so that each
    formant moves by its own amount; the envelope's peaks are raised or flattened by a factor drawn
    from `contrast`.
    """
    size, hop = 1024, 256
    rows = len(pcm)
    window = torch.hann_window(size, device=pcm.device)
    spectrum = torch.stft(pcm, size, hop, window=window, return_complex=True)
    logarithm = (spectrum.abs() + 1e-4).log()
    cepstrum = torch.fft.irfft(logarithm, dim=1)
    lifter = torch.zeros(size, device=pcm.device)
    lifter[:40] = lifter[-39:] = 1
    envelope = torch.fft.rfft(cepstrum * lifter[:, None], dim=1).real
    stretch = torch.empty(rows, 1, device=pcm.device).uniform_(math.log(low), math.log(high))
    bins = torch.arange(size // 2 + 1, device=pcm.device)
    if uneven:
        anchors = uneven * torch.randn(rows, 5, device=pcm.device)
        place = (torch.log2((bins / bins[-1]).clamp(min=1 / 16)) + 4).clamp(max=3.999)
        before = place.long()
        stretch = stretch + torch.lerp(anchors[:, before], anchors[:, before + 1], place - before)
    source = (bins / stretch.exp()).clamp(max=size // 2)
    below = source.floor().long()
    above = (below + 1).clamp(max=size // 2)
    share = (source - below)[..., None]
    frames = envelope.shape[-1]
    moved = (
        envelope.gather(1, below[..., None].expand(-1, -1, frames)) * (1 - share)
        + envelope.gather(1, above[..., None].expand(-1, -1, frames)) * share
    )
    if contrast != (1.0, 1.0):
        sharper = torch.empty(rows, 1, 1, device=pcm.device).uniform_(*contrast)
        middle = moved.mean(1, keepdim=True)
        moved = middle + sharper * (moved - middle)
    return torch.istft(
        spectrum * (moved - envelope).clamp(-4, 4).exp(),
        size,
        hop,
        window=window,
        length=pcm.shape[-1],
    )


def disturb(pcm: Tensor) -> tuple[Tensor, Tensor]:
    """Return the encoder's input and what the decoder should reproduce, both [B, N]: other levels,
    colours and reverberation; noise is in the input only.
    """
    batch, length = pcm.shape
    device = pcm.device

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(batch, 1, device=device).uniform_(low, high)

    def some(probability: float) -> Tensor:
        return torch.rand(batch, 1, device=device) < probability

    part = int(0.7 * batch)
    if part:
        moved = shift_formants(pcm[:part], uneven=0.07, contrast=(0.75, 1.25))
        pcm = torch.cat([moved, pcm[part:]])
    size = 1 << (length + 8192 - 1).bit_length()
    spectrum = torch.fft.rfft(pcm, size)
    bins = torch.linspace(0, 12_000, size // 2 + 1, device=device)
    # A smooth random gain over the logarithm of the frequency.
    anchors = torch.randn(batch, 1, 10, device=device) * 5.0
    octave = (torch.log2(bins.clamp(min=40) / 40) / math.log2(300)).clamp(0, 1) * 9
    low = octave.floor().long().clamp(max=8)
    gain = torch.lerp(anchors[:, 0, low], anchors[:, 0, low + 1], octave - low)
    gain = torch.where(some(0.6), gain, 0.0)
    cut = torch.where(some(0.25), draw(3_200, 9_000), torch.full((batch, 1), 1e6, device=device))
    floor = torch.where(some(0.25), draw(60, 300), torch.zeros(batch, 1, device=device))
    gain = gain - 60 * ((bins - cut) / 800).clamp(0, 1) - 40 * ((floor - bins) / 100).clamp(0, 1)
    spectrum = spectrum * 10 ** (gain / 20)
    # Reverberation: the sound itself and a decaying tail of noise.
    tail = (
        torch.randn(batch, 8192, device=device)
        * torch.exp(-torch.arange(8192, device=device) / (draw(0.02, 0.09) * SAMPLE_RATE))
        * 0.04
    )
    tail = tail * torch.where(some(0.35), draw(0.1, 1.0), torch.zeros(batch, 1, device=device))
    tail[:, 0] = 1
    clean = torch.fft.irfft(spectrum * torch.fft.rfft(tail, size), size)[:, :length]
    level = torch.where(some(0.5), 10 ** (draw(-22, 10) / 20), 10 ** (draw(-4, 4) / 20))
    clean = (clean * level).clamp(-1, 1)
    power = clean.square().mean(1, keepdim=True).sqrt() + 1e-5
    noise = torch.randn(batch, length, device=device)
    coloured = torch.fft.irfft(
        torch.fft.rfft(noise)
        / (torch.linspace(0, 1, length // 2 + 1, device=device) + 0.01).sqrt(),
        length,
    )
    noise = torch.where(
        some(0.5), noise, coloured / (coloured.square().mean(1, keepdim=True).sqrt() + 1e-6)
    )
    heard = clean + noise * power * torch.where(
        some(0.6), 10 ** (-draw(8, 45) / 20), torch.zeros(batch, 1, device=device)
    )
    other = clean.roll(1, 0)
    heard = heard + other * power / (
        other.square().mean(1, keepdim=True).sqrt() + 1e-5
    ) * torch.where(some(0.1), 10 ** (-draw(14, 30) / 20), torch.zeros(batch, 1, device=device))
    return heard.clamp(-1, 1), clean


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n")
