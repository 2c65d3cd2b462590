"""Train the TTS language model on codes of the frozen codec: `python -m tools.tiny_models.train_tts
SHARDS MODEL OUT`.

MODEL is a folder with the codec and the tokenizer, `models/tiny` for example. OUT gets the model in
the published layout, its voices, `tts.pt` to go on from, and the history. Guidance is learnt by
hiding text and voice from some streams.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from dsmops.dtypes import ComputeDType
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.worker.models.loading import load_mimi_decoder, load_mimi_encoder, published_tts_tables
from dsmops.worker.models.tts import load_tts
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.models.tts_lm import ZERO
from dsmops.worker.runtime.stt.engine import SttEngine
from tools.tiny_models.batches import Audio, Index, read_shards, write_json
from tools.tiny_models.data import VOICES
from tools.tiny_models.evaluate import Sentence, write_recording
from tools.tiny_models.evaluate_tts import read_voices, round_trip, synthesize_all, texts
from tools.tiny_models.export import (
    MIMI_FILE,
    TOKENIZER_FILE,
    TTS_VOICES,
    tts_files,
    write_tts,
    write_voice,
)
from tools.tiny_models.networks import Codec
from tools.tiny_models.settings import BINS, TTS_BODY
from tools.tiny_models.training import (
    adamw,
    average,
    is_tall_matrix,
    set_rate,
    set_up,
    told_size,
    training_shards,
)
from tools.tiny_models.tts_network import TtsNet
from tools.tiny_models.tts_streams import (
    IGNORED,
    StreamPlan,
    Streams,
    encode_streams,
    plan_streams,
    usable_workers,
    voice_prompts,
)

CODE_WEIGHTS = (4.0, 2.0, 1.0, 1.0, 0.7, 0.7, 0.5, 0.5)
"""The first codebook tells the words, so it counts most."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Speech and the plans of new streams, on their way to the device."""

    index: Index
    audio: np.ndarray
    labels: np.ndarray
    plans: list[StreamPlan]
    said: str


class Losses(nn.Module):
    """One step's losses from rows of the streams, all of it on the device."""

    def __init__(
        self, net: TtsNet, *, unconditioned: float, wrong_codes: float, depformer_share: float
    ) -> None:
        super().__init__()
        self.net = net
        self.unconditioned, self.wrong_codes = unconditioned, wrong_codes
        self.depformer_share = depformer_share
        config = net.config
        weights = torch.tensor(CODE_WEIGHTS[: config.shape.lm.audio_codebooks])
        self.register_buffer("weights", weights / weights.sum())

    def forward(
        self, codes: Tensor, tokens: Tensor, actions: Tensor, prompts: Tensor
    ) -> dict[str, Tensor]:
        net, config = self.net, self.net.config
        device = codes.device
        batch, length = tokens.shape
        heard, told, made = net.inputs(codes, tokens)
        conditioned = torch.rand(batch, device=device) >= self.unconditioned
        told = torch.where(
            conditioned[:, None] | (torch.arange(length, device=device) == 0), told, ZERO
        )
        # Some input codes are wrong, as the model's own mistakes will be.
        wrong = (torch.rand(heard.shape, device=device) < self.wrong_codes) & (heard >= 0)
        heard = torch.where(
            wrong & (heard < BINS), torch.randint(BINS, heard.shape, device=device), heard
        )
        # One speaker, or the same one twice, as the server asks for it.
        frames = prompts.shape[-1]
        speakers = config.max_speakers
        voices = prompts.transpose(1, 2).repeat(1, speakers, 1)
        both = torch.rand(batch, 1, device=device) < 0.5
        known = (torch.arange(speakers * frames, device=device) < frames) | both
        summed, sequence = net.conditions(voices, known, conditioned)
        logits, states = net(told, heard, summed, sequence)
        action = F.cross_entropy(
            logits.float().transpose(1, 2), actions, ignore_index=IGNORED, reduction="none"
        )
        asked = (actions != IGNORED) & conditioned[:, None]
        action = (action * asked).sum() / asked.sum().clamp(min=1)
        # The depformer learns from a part of the steps: they are many and alike.
        first = config.delay_steps + config.max_delay
        count = max(1, int(batch * (length - first) * self.depformer_share))
        flat = torch.randint(batch * (length - first), (count,), device=device)
        row, step = flat // (length - first), flat % (length - first) + first
        wanted = made[row, :, step]
        guesses = net.depform(states[row, step], tokens[row, step], wanted)
        losses = F.cross_entropy(
            guesses.float().flatten(0, 1), wanted.clamp(min=0).flatten(), reduction="none"
        ).view(wanted.shape)
        counted = (wanted >= 0).float()
        each = (losses * counted).sum(0) / counted.sum(0).clamp(min=1)
        return {"action": action, "codes": (each * self.weights).sum(), "each": each.detach()}


class Trainer:
    """Weights, their average and the optimiser."""

    def __init__(self, arguments: argparse.Namespace, net: TtsNet, device: torch.device) -> None:
        self.arguments, self.net, self.device = arguments, net, device
        self.mean = copy.deepcopy(net).requires_grad_(False).eval()
        self.losses = Losses(
            net,
            unconditioned=arguments.unconditioned,
            wrong_codes=arguments.wrong_codes,
            depformer_share=arguments.depformer_share,
        ).to(device)
        self.on_cuda = device.type == "cuda"
        self.optimizer = adamw(
            net.parameters(), arguments.rate, weight_decay=0.03, decays=is_tall_matrix
        )
        self.shown: dict[str, Tensor] = {}
        self.streams: Streams | None = None
        self.prompts: Tensor | None = None

    def use(self, streams: Streams, prompts: Tensor) -> None:
        """Train on these streams and prompts [V, P, width, frames] from now on."""
        self.streams, self.prompts = streams, prompts

    def step(self, rate: float, number: int) -> None:
        """Do one update at this learning rate."""
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        assert self.streams is not None
        assert self.prompts is not None
        streams, size = self.streams, self.arguments.batch
        rows = torch.randint(len(streams.codes), (size,), device=self.device)
        drawn = torch.randint(self.prompts.shape[1], (size,), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_cuda):
            found = self.losses(
                streams.codes[rows].long(),
                streams.tokens[rows].long(),
                streams.actions[rows].long(),
                self.prompts[streams.voices[rows], drawn],
            )
        (found["codes"] * self.arguments.code_weight + found["action"]).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.net.zero_rows()
        average(self.mean.parameters(), self.net.parameters(), number, most=0.9995, warm_steps=20)
        self.shown = {name: value.detach() for name, value in found.items()}


def load_start(path: Path, config: TtsConfig, device: torch.device) -> TtsNet:
    """Return a network with the weights of an exported folder."""
    net = TtsNet(config)
    read = load_tts(tts_files(path), device=torch.device("cpu"), dtype=ComputeDType.F32)
    with torch.no_grad():
        for name, table in published_tts_tables(read.lm).items():
            published_tts_tables(net.lm)[name].copy_(table)
        net.zero_rows()
    return net.to(device)


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    device = set_up(arguments.seed)
    config = TtsConfig.from_json(TTS_BODY)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    for name in (MIMI_FILE, TOKENIZER_FILE):
        if (arguments.model / name).resolve() != (out / name).resolve():
            shutil.copyfile(arguments.model / name, out / name)
    codec = Codec()
    codec.encoder = load_mimi_encoder(arguments.model / MIMI_FILE, device=device)
    codec.decoder = load_mimi_decoder(arguments.model / MIMI_FILE, device=device)
    names: list[str] = arguments.voices
    numbers = [VOICES.index(name) for name in names]
    net = TtsNet(config, arguments.dropout).to(device)
    if arguments.start:
        net.load_state_dict(load_start(arguments.start, config, device).state_dict())
    number, spent, history = 0, 0.0, []
    state = out / "tts.pt"
    saved: dict[str, Any] | None = None
    if state.exists() and not arguments.afresh:
        saved = torch.load(state, map_location=device)
        net.load_state_dict(saved["net"])
        number, spent, history = saved["number"], saved["spent"], saved["history"]
        print(f"going on after {spent:.0f} s and {number} steps", flush=True)
    net.train()
    trainer = Trainer(arguments, net, device)
    if saved:
        trainer.mean.load_state_dict(saved["mean"])
        trainer.optimizer.load_state_dict(saved["optimizer"])
    parameters = sum(one.numel() for one in net.parameters())
    print(f"{parameters} weights on {device}", flush=True)

    def prepare(seed: int, count: int) -> Prepared:
        index, audio, labels = read_shards(training_shards(arguments.shards))
        plans = plan_streams(
            index,
            arguments.model / TOKENIZER_FILE,
            config,
            voices=numbers,
            count=count,
            frames=arguments.frames,
            seed=seed,
            workers=arguments.workers,
        )
        return Prepared(index, audio, labels, plans, told_size(index, audio))

    def take(made: Prepared, seed: int) -> None:
        began = time.time()
        store = Audio(made.audio, made.labels, device)
        places = torch.zeros(len(VOICES), dtype=torch.int64, device=device)
        prompts = []
        for place, voice in enumerate(numbers):
            places[voice] = place
            found = voice_prompts(made.index, store, codec, voice, arguments.prompts, seed)
            prompts.append(found)
            if not (out / TTS_VOICES / f"{names[place]}{config.voice_suffix}").exists():
                write_voice(found[0], out, names[place])
        streams = encode_streams(made.plans, store, codec, config, arguments.frames)
        streams.voices.copy_(places[streams.voices])
        trainer.use(streams, torch.stack(prompts))
        spent_s = time.time() - began
        print(f"{made.said}, {len(streams.codes)} streams encoded in {spent_s:.1f} s", flush=True)

    def export(judge: bool) -> dict[str, Any]:
        rounded = copy.deepcopy(trainer.mean)
        write_tts(rounded.lm, out)
        torch.save(
            {
                "net": net.state_dict(),
                "mean": trainer.mean.state_dict(),
                "optimizer": trainer.optimizer.state_dict(),
                "number": number,
                "spent": spent,
                "history": history,
            },
            state,
        )
        results = _judge(arguments, out, device) if judge else {}
        write_json(
            out / "tts-history.json",
            {"training": history, "arguments": {k: str(v) for k, v in vars(arguments).items()}},
        )
        return results

    take(prepare(arguments.seed, arguments.first_streams or arguments.streams), arguments.seed)
    renewals = list(arguments.renew_at_s)
    coming: Future[Prepared] | None = None
    pool = ThreadPoolExecutor(1)
    began = last = time.time()
    before, judged, started = spent, time.time(), time.time()
    slice_end = time.time() + arguments.slice_s
    while True:
        if number % 20 == 0:
            if trainer.on_cuda:
                torch.cuda.synchronize()
            spent = before + time.time() - began
        passed = max(spent / arguments.seconds, number / arguments.steps)
        if passed >= 1 or time.time() > slice_end:
            break
        ramp = min(1.0, (number + 1) / 300)
        fall = 1.0 if passed < 0.35 else max(0.02, 1 - (passed - 0.35) / 0.65)
        trainer.step(arguments.rate * ramp * fall, number)
        number += 1
        if number % arguments.log_every == 0 or number in (1, 20):
            row = {
                "step": number,
                "s": round(spent, 1),
                "action": round(float(trainer.shown["action"]), 4),
                "codes": round(float(trainer.shown["codes"]), 4),
                "each": [round(one, 3) for one in trainer.shown["each"].tolist()],
            }
            history.append(row)
            print(row, flush=True)
        if time.time() - judged > arguments.judge_every_s:
            history.append({"step": number, "s": round(spent, 1), **export(True)})
            judged = time.time()
            before, began = spent, time.time()
        # New streams are planned beside the training.
        if coming is None and renewals and time.time() - started > renewals[0]:
            del renewals[0]
            coming = pool.submit(prepare, arguments.seed + 1 + number, arguments.streams)
        if coming is not None and coming.done():
            take(coming.result(), arguments.seed + number)
            coming = None
            before, began = spent, time.time()
    print(f"{number} steps in {time.time() - last:.1f} s", flush=True)
    history.append({"step": number, "s": round(spent, 1), **export(bool(arguments.judge_count))})
    export(False)


def _judge(arguments: argparse.Namespace, out: Path, device: torch.device) -> dict[str, Any]:
    """Return what the tiny STT model makes of held-out sentences that the exported model speaks."""
    began = time.time()
    files = tts_files(out)
    loaded = load_tts(files, device=device, dtype=ComputeDType.F32)
    voices = read_voices(files, loaded)
    chosen = texts(arguments.judge_count)
    source = find_stt("tiny")
    stt = SttEngine(load_stt_source(source, cpu=device.type == "cpu"), 16)
    processor = SentencePieceProcessor(model_file=str(source.files.tokenizer))
    results: dict[str, Any] = {}
    for cfg, temperature in arguments.judge_at:
        jobs = [(text, voices[name]) for name in arguments.voices for text, _ in chosen]
        sounds = synthesize_all(loaded, jobs, cfg=cfg, temperature=temperature, slots=64)
        made = [
            Sentence(name, words, sound)
            for (name, words), sound in zip(
                [(name, words) for name in arguments.voices for _, words in chosen],
                sounds,
                strict=True,
            )
        ]
        found = round_trip(stt, processor, source.config.text_delay_steps, made)
        examples = found.pop("examples")
        results[f"cfg {cfg:g} temperature {temperature:g}"] = found
        print(f"judged at cfg {cfg:g}, temperature {temperature:g}:", found, flush=True)
        print("  " + "\n  ".join(examples[:6]), flush=True)
        for number, one in enumerate(made[:: max(1, len(made) // 6)]):
            write_recording(out / f"sample-{number}-{one.voice}.wav", one.audio)
    print(f"judged in {time.time() - began:.1f} s", flush=True)
    return {"round_trip": results}


def _pair(text: str) -> tuple[float, float]:
    cfg, temperature = text.split(",")
    return float(cfg), float(temperature)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="folder of an exported model to go on from")
    parser.add_argument("--voices", nargs="+", default=["hibari", "hibari-low"])
    parser.add_argument("--seconds", type=float, default=600, help="training time of all slices")
    parser.add_argument(
        "--slice-s", type=float, default=1e9, help="stop after this time, to go on later"
    )
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--streams", type=int, default=4000, help="streams of each voice")
    parser.add_argument("--prompts", type=int, default=64, help="ten seconds of each voice")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--unconditioned", type=float, default=0.15)
    parser.add_argument("--wrong-codes", type=float, default=0.04)
    parser.add_argument("--depformer-share", type=float, default=0.5)
    parser.add_argument("--code-weight", type=float, default=1.0)
    parser.add_argument("--first-streams", type=int, default=0, help="of each voice, at the start")
    parser.add_argument(
        "--renew-at-s",
        type=float,
        nargs="*",
        default=[],
        help="make new streams after these times, also of shards that came since",
    )
    parser.add_argument("--judge-every-s", type=float, default=120)
    parser.add_argument("--judge-count", type=int, default=21, help="sentences for each voice")
    parser.add_argument(
        "--judge-at", type=_pair, nargs="+", default=[(2.0, 0.6)], help="CFG,TEMPERATURE"
    )
    parser.add_argument("--log-every", type=int, default=500)
    parser.add_argument("--workers", type=int, default=usable_workers())
    parser.add_argument("--afresh", action="store_true", help="do not go on from tts.pt")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
