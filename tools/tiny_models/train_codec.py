"""Train codec and STT language model together: `python -m tools.tiny_models.train_codec SHARDS
TOKENIZER OUT`.

The language model reads the quantised vectors, so that its loss teaches the encoder which sounds
tell words apart. A linear map from the semantic level alone names the phonemes of this frame and
the one before.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny_models.batches import CLOSE, Audio, disturb, read_shards, write_json
from tools.tiny_models.losses import MelLoss
from tools.tiny_models.networks import Codec, SttNet, stt_inputs
from tools.tiny_models.settings import BINS, CODEBOOKS, STT
from tools.tiny_models.speech import PHONES
from tools.tiny_models.training import (
    Examples,
    adamw,
    is_matrix,
    plan_examples,
    rate_at,
    set_rate,
    set_up,
    training_shards,
)

_CROP_FRAMES = 16


class Joint(nn.Module):
    """Codec, language model and the maps between them that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = Codec()
        self.net = SttNet(STT)
        width = self.codec.config.quantizer_dimension
        self.readers = nn.Parameter(torch.randn(CODEBOOKS, width, STT.d_model) / width**0.5 / 2)
        self.phones = nn.Linear(width, 8 * len(PHONES))
        self.phones_full = nn.Linear(CODEBOOKS * width, 8 * len(PHONES))

    def bake(self) -> None:
        """Turn the maps from quantised vectors into the language model's tables."""
        quantizer = self.codec.quantizer
        books = torch.cat([quantizer.rvq_first.codebooks, quantizer.rvq_rest.codebooks])
        with torch.no_grad():
            tables = self.net.lm.emb.view(CODEBOOKS, BINS + 1, -1)
            tables[:, :BINS] = torch.einsum("kbc,kcd->kbd", books, self.readers)


def phone_targets(labels: Tensor) -> Tensor:
    """Return int64 [B, T, 8]: the phonemes of the frame before and of this one."""
    before = torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], 1)
    return torch.cat([before, labels], -1)


def phone_loss(named: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of named phonemes [B, T, 8 · phonemes]."""
    return F.cross_entropy(named.float().view(-1, len(PHONES)), phone_targets(labels).flatten())


def stt_loss(
    logits: Tensor, heads: Tensor, tokens: Tensor, pauses: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the text loss, in which padding counts half, and the loss of the pause heads."""
    weight = torch.where(tokens == 3, 0.4, 1.0)
    losses = F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none")
    return (losses * weight).sum() / weight.sum(), F.cross_entropy(
        heads.float().flatten(0, 2), pauses.flatten(), ignore_index=-100
    )


class Step:
    """One step's losses."""

    def __init__(self, joint: Joint, audio: Audio, frames: int, *, compiled: bool) -> None:
        self.joint, self.audio, self.frames = joint, audio, frames
        self.mel = MelLoss().to(audio.device)
        codec = joint.codec
        self.latents = torch.compile(codec.encoder.latents) if compiled else codec.encoder.latents
        self.sound = torch.compile(codec.synthesise) if compiled else codec.synthesise
        self.net = torch.compile(joint.net) if compiled else joint.net

    def __call__(self, plan: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
        joint, device = self.joint, self.audio.device
        with torch.no_grad():
            pcm, labels = self.audio.assemble(plan, self.frames)
            heard, wanted = disturb(pcm)
        tokens, pauses = plan["tokens"].to(device), plan["pauses"].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            latents = self.latents(heard[:, None])
            codes, steps, decoded, commitment = joint.codec.quantize(latents, learn=True)
            losses = {"commit": commitment}
            targets = phone_targets(labels)
            losses["phone"] = phone_loss(joint.phones(steps[:, 0]), labels)
            full = joint.phones_full(steps.transpose(1, 2).flatten(2))
            losses["phone_full"] = phone_loss(full, labels)
            audio = torch.einsum("bktc,kcd->btd", steps, joint.readers.to(steps.dtype))
            initial = joint.net.lm.emb.view(CODEBOOKS, BINS + 1, -1)[:, -1].sum(0)
            audio = torch.cat([initial.expand(len(audio), 1, -1).to(audio.dtype), audio[:, :-1]], 1)
            _, text = stt_inputs(codes, tokens, joint.net.lm)
            logits, heads = self.net(audio, text)
            losses["text"], losses["pause"] = stt_loss(logits, heads, tokens, pauses)
            if weights.get("mel", 0) > 0:
                half = max(1, len(pcm) // 2)
                first = int(torch.randint(4, self.frames - _CROP_FRAMES + 1, ()))
                made = self.sound(decoded[:half], first, _CROP_FRAMES)[:, 0].float()
        if weights.get("mel", 0) > 0:
            losses["mel"] = self.mel(
                made, wanted[:half, first * 1920 : (first + _CROP_FRAMES) * 1920]
            )
        losses["total"] = torch.stack(
            [weights.get(name, 1.0) * value for name, value in losses.items()]
        ).sum()
        with torch.no_grad():
            losses["phone_right"] = (
                (joint.phones(steps[:, 0]).view(*targets.shape, -1).argmax(-1) == targets)
                .float()
                .mean()
            )
            spoken = tokens > 3
            losses["text_right"] = (logits.argmax(-1) == tokens)[spoken].float().mean()
            losses["used"] = torch.stack(
                [
                    codes[:, level].unique().numel() * torch.ones((), device=device)
                    for level in (0, 1, CODEBOOKS - 1)
                ]
            ).mean()
        return losses


WEIGHTS = {"commit": 0.25, "phone": 0.5, "phone_full": 0.25, "text": 1.0, "pause": 0.1, "mel": 1.0}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="train for this long")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--shards-at-most", type=int, default=10**9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--resume", type=Path)
    parser.add_argument(
        "--reload-s",
        type=float,
        default=1e9,
        help="read the shards again after this time: more may have come",
    )
    parser.add_argument(
        "--profile", action="store_true", help="print where three steps spend their time"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device = set_up(arguments.seed)

    def read(seed: int, most: int) -> Examples:
        return plan_examples(
            read_shards(training_shards(arguments.shards)[:most]),
            arguments.tokenizer,
            device,
            batch=arguments.batch,
            frames=arguments.frames,
            pauses=CLOSE,
            seed=seed,
            workers=arguments.workers,
        )

    joint = Joint().to(device)
    if arguments.resume:
        joint.load_state_dict(torch.load(arguments.resume, map_location=device), strict=False)
        joint.codec.started = True
        for half in (joint.codec.quantizer.rvq_first, joint.codec.quantizer.rvq_rest):
            half.usage.fill_(arguments.batch * arguments.frames / BINS)
            half.sums.copy_(half.codebooks * half.usage[..., None])
        joint.bake()
    examples = read(arguments.seed, arguments.shards_at_most)
    step = Step(joint, examples.audio, arguments.frames, compiled=arguments.compile)
    optimizer = adamw(joint.parameters(), arguments.rate, weight_decay=0.01, decays=is_matrix)
    began, number, history = time.time(), 0, []
    arguments.out.mkdir(parents=True, exist_ok=True)
    while True:
        passed = max((time.time() - began) / arguments.seconds, number / arguments.steps)
        if passed >= 1:
            break
        set_rate(optimizer, rate_at(arguments.rate, number, passed))
        if arguments.profile and number == 12:
            torch.cuda.synchronize()
            profiler = torch.profiler.profile(
                activities=[
                    torch.profiler.ProfilerActivity.CUDA,
                    torch.profiler.ProfilerActivity.CPU,
                ]
            )
            profiler.start()
        if time.time() - began > arguments.reload_s:
            arguments.reload_s = 1e9
            examples = read(arguments.seed + 1, 10**9)
            step.audio = examples.audio
        losses = step(next(examples.batches), WEIGHTS)
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(joint.parameters(), 1.0)
        optimizer.step()
        number += 1
        if arguments.profile and number == 15:
            torch.cuda.synchronize()
            profiler.stop()
            print(
                profiler.key_averages().table(
                    sort_by="cuda_time_total", row_limit=22, max_name_column_width=60
                ),
                flush=True,
            )
            began = time.time()
        if number == 20:
            joint.codec.started = True
        if number % 50 == 0 or number < 4:
            row = {name: round(float(value), 4) for name, value in losses.items()} | {
                "step": number,
                "s": round(time.time() - began, 1),
            }
            history.append(row)
            print(row, flush=True)
    joint.bake()
    torch.save(joint.state_dict(), arguments.out / "joint.pt")
    write_json(arguments.out / "codec-history.json", history)


if __name__ == "__main__":
    main()
