"""Train the codec's decoder alone, with a discriminator: `python -m
tools.tiny_models.train_decoder SHARDS MODEL OUT`.

Encoder and quantiser stay as they are, so codes and language models stay valid. MODEL is a folder
with a codec; OUT gets the codec with the new decoder, and `decoder.pt` to go on from.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.worker.models.loading import load_mimi_decoder, load_mimi_encoder
from dsmops.worker.runtime.stt.engine import SttEngine
from tools.tiny_models.batches import CLOSE, Audio, read_shards, write_json
from tools.tiny_models.discriminator import Discriminators, discriminator_loss, generator_losses
from tools.tiny_models.evaluate import read_tests
from tools.tiny_models.evaluate_tts import round_trip
from tools.tiny_models.export import MIMI_FILE, TOKENIZER_FILE, round_codec, write_mimi
from tools.tiny_models.losses import MelLoss
from tools.tiny_models.networks import Codec
from tools.tiny_models.settings import CODEBOOKS, TTS_CODEBOOKS
from tools.tiny_models.training import (
    average,
    plan_examples,
    rate_at,
    set_rate,
    set_up,
    training_shards,
)

_CROP_FRAMES = 16
_WARM_FRAMES = 4


def load_codec(folder: Path, device: torch.device) -> Codec:
    """Return the codec of a folder, only its decoder trainable."""
    codec = Codec()
    codec.encoder = load_mimi_encoder(folder / MIMI_FILE, device=device)
    codec.decoder = load_mimi_decoder(folder / MIMI_FILE, device=device)
    codec.requires_grad_(False)
    codec.decoder.requires_grad_(True)
    # Both halves hold the quantiser; neither may move.
    codec.decoder.quantizer = codec.encoder.quantizer
    codec.quantizer.requires_grad_(False)
    return codec


class Crops:
    """Latents of streams on the device, and the sound that belongs to them, cut at random."""

    def __init__(self, codec: Codec, audio: Audio, frames: int) -> None:
        self.codec, self.audio, self.frames = codec, audio, frames

    @torch.no_grad()
    def encode(self, plan: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the sound [B, N] of a plan and its codes [B, K, T]."""
        pcm, _ = self.audio.assemble(plan, self.frames)
        latents = self.codec.encoder.latents(pcm[:, None])
        return pcm, self.codec.quantizer.encode(latents, CODEBOOKS)

    def decode(self, codes: Tensor, first: int) -> Tensor:
        """Return the decoded sound [B, N] of a crop."""
        latents = self.codec.quantizer.decode(codes)
        return self.codec.synthesise(latents, first, _CROP_FRAMES, _WARM_FRAMES)[:, 0]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tests", type=Path, help="folder of test-voices.npz")
    parser.add_argument("--critics", type=Path, help="discriminators to start from")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--frames", type=int, default=75)
    parser.add_argument("--reuse", type=int, default=4, help="crops of each batch that is encoded")
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--mel-weight", type=float, default=10.0)
    parser.add_argument("--heard-weight", type=float, default=30.0)
    parser.add_argument("--feature-weight", type=float, default=3.0)
    parser.add_argument("--alone-steps", type=int, default=100, help="steps before it deceives")
    parser.add_argument("--save-every-s", type=float, default=60)
    parser.add_argument("--reload-s", type=float, nargs="*", default=[])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    device = set_up(arguments.seed)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    # The next step of the recipe finds all that it needs in one folder.
    shutil.copyfile(arguments.model / TOKENIZER_FILE, out / TOKENIZER_FILE)
    codec = load_codec(arguments.model, device)
    critics = Discriminators().to(device)
    mel = MelLoss().to(device)
    learnt = [one for one in codec.decoder.parameters() if one.requires_grad]
    mean = copy.deepcopy(codec.decoder)
    mean_learnt = [one for one in mean.parameters() if one.requires_grad]
    optimizer, critic = (
        torch.optim.AdamW(
            parameters, lr=arguments.rate, betas=(0.8, 0.99), fused=device.type == "cuda"
        )
        for parameters in (learnt, list(critics.parameters()))
    )
    if arguments.critics:
        critics.load_state_dict(torch.load(arguments.critics, map_location=device))
    number, spent = 0, 0.0
    history: list[dict[str, float]] = []
    state = out / "decoder.pt"
    if state.exists():
        saved = torch.load(state, map_location=device)
        codec.decoder.load_state_dict(saved["decoder"])
        mean.load_state_dict(saved["mean"])
        critics.load_state_dict(saved["critics"])
        optimizer.load_state_dict(saved["optimizer"])
        critic.load_state_dict(saved["critic"])
        number, spent, history = saved["number"], saved["spent"], saved["history"]
        print(f"going on after {spent:.0f} s", flush=True)

    def read() -> tuple[Crops, Iterator[dict[str, Tensor]]]:
        examples = plan_examples(
            read_shards(training_shards(arguments.shards)),
            None,
            device,
            batch=arguments.batch,
            frames=arguments.frames,
            pauses=CLOSE,
            seed=arguments.seed + number,
            workers=arguments.workers,
            vary=False,
        )
        return Crops(codec, examples.audio, arguments.frames), examples.batches

    def judge() -> None:
        tests = read_tests(arguments.tests / "test-voices.npz")
        with torch.no_grad():
            for test in tests:
                sound = np.pad(test.audio, (1920, -len(test.audio) % 1920 + 3840))
                pcm = torch.from_numpy(sound)[None, None].to(device)
                codes = codec.encoder.encode(pcm, TTS_CODEBOOKS)
                test.audio = mean.decode(codes)[0, 0].float().cpu().numpy()
        source = find_stt("tiny")
        stt = SttEngine(load_stt_source(source, cpu=device.type == "cpu"), 16)
        processor = SentencePieceProcessor(model_file=str(source.files.tokenizer))
        found = round_trip(stt, processor, source.config.text_delay_steps, tests)
        print(f"{spent:.0f} s: recordings through the codec:", found["wer_percent"], flush=True)
        history.append({"step": number, "s": spent, "wer": found["wer_percent_all"]})

    def save() -> None:
        finished = copy.deepcopy(codec)
        finished.decoder = copy.deepcopy(mean)
        finished.decoder.quantizer = finished.encoder.quantizer
        round_codec(finished)
        write_mimi(finished, out / MIMI_FILE)
        torch.save(
            {
                "decoder": codec.decoder.state_dict(),
                "mean": mean.state_dict(),
                "critics": critics.state_dict(),
                "optimizer": optimizer.state_dict(),
                "critic": critic.state_dict(),
                "number": number,
                "spent": spent,
                "history": history,
            },
            state,
        )
        torch.save(critics.state_dict(), out / "critics.pt")
        if arguments.tests:
            judge()
        write_json(out / "decoder-history.json", history)

    crops, batches = read()
    began = saved_at = time.time()
    before = spent
    pcm = codes = torch.zeros(0)
    while True:
        spent = before + time.time() - began
        passed = max(spent / arguments.seconds, number / arguments.steps)
        if passed >= 1:
            break
        if arguments.reload_s and spent > arguments.reload_s[0]:
            del arguments.reload_s[0]
            crops, batches = read()
        if number % arguments.reuse == 0 or not len(pcm):
            pcm, codes = crops.encode(next(batches))
        rate = rate_at(arguments.rate, number, passed, flat=0.5, least=0.05, warm_steps=100)
        for one in (optimizer, critic):
            set_rate(one, rate)
        # Mostly as many codebooks as the TTS model generates, sometimes more or fewer.
        draw = torch.rand(()).item()
        count = TTS_CODEBOOKS if draw < 0.85 else CODEBOOKS if draw < 0.95 else TTS_CODEBOOKS - 2
        first = int(torch.randint(_WARM_FRAMES, arguments.frames - _CROP_FRAMES + 1, ()))
        wanted = pcm[:, first * 1920 : (first + _CROP_FRAMES) * 1920]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            made = crops.decode(codes[:, :count], first).float()
            real = critics(wanted)
            critic_loss = discriminator_loss(real, critics(made.detach()))
        critic.zero_grad(set_to_none=True)
        critic_loss.backward()
        nn.utils.clip_grad_norm_(critics.parameters(), 1.0)
        critic.step()
        spectral = mel(made, wanted)
        # The encoder should make the same latents of the decoded sound as of the recording.
        with torch.no_grad():
            target = codec.encoder.latents(wanted[:, None])
        heard = codec.encoder.latents(made[:, None])
        kept = (heard - target).square().mean() / target.square().mean()
        total = arguments.mel_weight * spectral + arguments.heard_weight * kept
        deceived = features = torch.zeros(())
        if number >= arguments.alone_steps:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                deceived, features = generator_losses(real, critics(made))
            total = total + deceived + arguments.feature_weight * features
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(learnt, 5.0)
        optimizer.step()
        number += 1
        average(mean_learnt, learnt, number, most=0.998)
        if number % 50 == 0 or number < 3:
            row = {
                "step": number,
                "s": round(spent, 1),
                "mel": round(spectral.item(), 4),
                "critic": round(critic_loss.item(), 4),
                "deceived": round(deceived.item(), 4),
                "features": round(features.item(), 4),
                "heard": round(kept.item(), 4),
            }
            history.append(row)
            if number % 200 == 0 or number < 3:
                print(row, flush=True)
        if time.time() - saved_at > arguments.save_every_s:
            save()
            saved_at = time.time()
    save()


if __name__ == "__main__":
    main()
