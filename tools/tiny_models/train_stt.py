"""Train the STT language model on the codes of a frozen codec: `python -m
tools.tiny_models.train_stt SHARDS TOKENIZER START OUT`.

Streams are encoded as training goes, each with disturbances of its own, and each is used a few
times from a store of codes.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from dsmops.worker.models.loading import load_mimi_decoder, load_mimi_encoder, load_stt_lm
from tools.tiny_models.batches import (
    SPOKEN,
    Audio,
    Index,
    disturb,
    read_shards,
    write_json,
)
from tools.tiny_models.export import (
    LM_FILE,
    MIMI_FILE,
    keep_bits,
    round_codec,
    write_mimi,
    write_stt,
)
from tools.tiny_models.networks import Codec, SttNet, stt_inputs
from tools.tiny_models.scores import evaluate, judge
from tools.tiny_models.settings import (
    BINS,
    CODEBOOKS,
    DELAY_STEPS,
    FRAME_SAMPLES,
    MAX_PERIOD,
    STT,
)
from tools.tiny_models.train_codec import Joint, stt_loss
from tools.tiny_models.training import (
    Examples,
    Rereading,
    Speech,
    adamw,
    average,
    decoded_again,
    is_tall_matrix,
    plan_examples,
    rate_at,
    set_rate,
    set_up,
    training_shards,
)


class Store:
    """Codes and targets of many streams on the device; new ones replace the oldest."""

    def __init__(self, size: int, frames: int, device: torch.device) -> None:
        self.codes = torch.zeros(size, CODEBOOKS, frames, dtype=torch.int16, device=device)
        self.tokens = torch.zeros(size, frames, dtype=torch.int16, device=device)
        self.pauses = torch.zeros(size, frames, 4, dtype=torch.int8, device=device)
        self.filled = self.next = 0

    def add(self, codes: Tensor, tokens: Tensor, pauses: Tensor) -> None:
        rows = (torch.arange(len(codes), device=codes.device) + self.next) % len(self.codes)
        self.codes[rows], self.tokens[rows] = codes.short(), tokens.to(codes.device).short()
        self.pauses[rows] = pauses.to(codes.device).clamp(min=-1).to(torch.int8)
        self.next = (self.next + len(codes)) % len(self.codes)
        self.filled = min(len(self.codes), self.filled + len(codes))

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.randint(self.filled, (count,), device=self.codes.device)
        pauses = self.pauses[rows].long()
        return (
            self.codes[rows].long(),
            self.tokens[rows].long(),
            torch.where(pauses < 0, -100, pauses),
        )


def start(path: Path, device: torch.device) -> tuple[Codec, SttNet]:
    """Return the frozen codec and the language model to go on with: from a joint training's file,
    or from a folder that was exported.
    """
    if path.is_dir():
        codec, net = Codec(), SttNet(STT)
        codec.encoder = load_mimi_encoder(path / MIMI_FILE, device=device)
        codec.decoder = load_mimi_decoder(path / MIMI_FILE, device=device)
        net.lm = load_stt_lm(
            path / LM_FILE, STT, MAX_PERIOD, device=device, dtype=torch.float32
        ).requires_grad_(True)
        return codec, net
    joint = Joint().to(device)
    joint.load_state_dict(torch.load(path, map_location=device))
    round_codec(joint.codec)
    joint.bake()
    return joint.codec.requires_grad_(False).eval(), joint.net


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument(
        "start", type=Path, help="joint.pt of train_codec, or a folder that this command wrote"
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--tests", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument(
        "--reuse", type=int, default=5, help="training steps for each batch that is encoded"
    )
    parser.add_argument("--store", type=int, default=3000)
    parser.add_argument(
        "--through-codec", type=float, default=0.15, help="share of streams that the codec decoded"
    )
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument(
        "--wrong-codes", type=float, default=0.1, help="largest share of wrong codes of a stream"
    )
    parser.add_argument("--delay", type=int, default=DELAY_STEPS)
    parser.add_argument("--bits", type=int, default=8, help="significant bits that weights keep")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--reload-s",
        type=float,
        nargs="*",
        default=[],
        help="read the shards again after these times: more may have come",
    )
    parser.add_argument(
        "--judge-at-s",
        type=float,
        nargs="*",
        default=[],
        help="write the weights and count wrong words after these times; needs --tests",
    )
    parser.add_argument("--dump", type=Path, help="write the codes of all sentences here")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.judge_at_s and not arguments.tests:
        parser.error("--judge-at-s needs --tests")
    device = set_up(arguments.seed)
    processor = SentencePieceProcessor(model_file=str(arguments.tokenizer))

    def plan(speech: Speech, seed: int) -> Examples:
        return plan_examples(
            speech,
            arguments.tokenizer,
            device,
            batch=arguments.batch,
            frames=arguments.frames,
            pauses=SPOKEN,
            seed=seed,
            workers=arguments.workers,
            delay=arguments.delay,
        )

    codec, net = start(arguments.start, device)
    net.dropout = arguments.dropout
    mean = copy.deepcopy(net).requires_grad_(False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_mimi(codec, arguments.out / MIMI_FILE)
    store = Store(arguments.store, arguments.frames, device)
    examples = plan(read_shards(training_shards(arguments.shards)), arguments.seed)
    latents = torch.compile(codec.encoder.latents) if arguments.compile else codec.encoder.latents
    forward = torch.compile(net) if arguments.compile else net

    @torch.no_grad()
    def fill() -> None:
        plan = next(examples.batches)
        pcm, _ = examples.audio.assemble(plan, arguments.frames)
        heard, _ = disturb(pcm)
        again = int(arguments.through_codec * len(heard))
        if again:
            # Some speech has been through the codec before, as synthesized speech has.
            heard[:again] = decoded_again(codec, latents, pcm[:again])
        store.add(
            codec.quantizer.encode(latents(heard[:, None]), CODEBOOKS),
            plan["tokens"],
            plan["pauses"],
        )

    def keep() -> None:
        """Write the averaged weights."""
        weights = {name: value.bfloat16() for name, value in mean.state_dict().items()}
        torch.save(weights, arguments.out / "stt.pt")

    def judged() -> dict[str, Any]:
        """Return the step, and the WER of the averaged weights on the voices never trained on."""
        scores = judge(mean, codec, arguments.tests, processor, device, arguments.delay)
        return {"step": number, "s": round(time.time() - began, 1)} | scores

    began = time.time()
    while store.filled < min(len(store.codes) // 3, 6 * arguments.batch):
        fill()
    print(f"filled {store.filled} streams in {time.time() - began:.1f} s", flush=True)
    optimizer = adamw(net.parameters(), arguments.rate, weight_decay=0.05, decays=is_tall_matrix)
    began, number, history = time.time(), 0, []
    again = Rereading(arguments.shards, arguments.reload_s)
    while True:
        passed_s = time.time() - began
        passed = max(passed_s / arguments.seconds, number / arguments.steps)
        if passed >= 1:
            break
        if speech := again.fresh(passed_s):
            arguments.seed += 100
            examples = plan(speech, arguments.seed)
        if number % arguments.reuse == 0:
            fill()
        set_rate(optimizer, rate_at(arguments.rate, number, passed, flat=0.3, least=0.01))
        codes, tokens, pauses = store.draw(arguments.batch)
        audio_in, text_in = stt_inputs(codes, tokens, net.lm)
        # Some codes are lost and some words misheard, so that one mistake does not bring the next.
        # Another voice gets more of its codes wrong than the next one.
        share = 0.01 + arguments.wrong_codes * torch.rand(len(codes), 1, 1, device=device) ** 3
        wrong = torch.rand(codes.shape, device=device) < share
        audio_in = torch.where(
            wrong & (audio_in < BINS), torch.randint(BINS, codes.shape, device=device), audio_in
        )
        lost = (
            (torch.rand(text_in.shape, device=device) < 0.04)
            & (text_in > 3)
            & (text_in < STT.text_out_vocab_size)
        )
        text_in = torch.where(
            lost, torch.randint(260, STT.text_out_vocab_size, text_in.shape, device=device), text_in
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits, heads = forward(net.audio(audio_in), text_in)
            text, pause = stt_loss(logits, heads, tokens, pauses)
        optimizer.zero_grad(set_to_none=True)
        (text + 0.2 * pause).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        number += 1
        average(mean.parameters(), net.parameters(), number, most=0.999)
        if number % 200 == 0 or number < 3:
            spoken = tokens > 3
            right = (logits.argmax(-1) == tokens)[spoken].float().mean()
            row = {
                "step": number,
                "s": round(time.time() - began, 1),
                "text": round(text.item(), 4),
                "pause": round(pause.item(), 4),
                "right": round(right.item(), 4),
            }
            history.append(row)
            print(row, flush=True)
        if arguments.judge_at_s and time.time() - began > arguments.judge_at_s[0]:
            del arguments.judge_at_s[0]
            keep()
            history.append(judged())
            print(history[-1], flush=True)
            write_json(arguments.out / "stt-history.json", {"training": history})
    keep()
    if arguments.tests:
        # Once more before the weights lose bits.
        history.append(judged())
        print(history[-1], flush=True)
    with torch.no_grad():
        for parameter in mean.parameters():
            parameter.copy_(keep_bits(parameter, arguments.bits))
    write_stt(mean.lm, arguments.out, arguments.delay)
    results = {}
    if arguments.tests:
        mean.eval()
        for path in sorted(arguments.tests.glob("test-*.npz")):
            name = path.stem.removeprefix("test-")
            results[name] = evaluate(mean, codec, path, processor, device, arguments.delay)
            examples = results[name].pop("examples")
            print(name, results[name], flush=True)
            shown = [line for line in examples if line[1] != line[2]]
            print(
                "\n".join(
                    f"  {voice}: {wanted} | {heard}"
                    for voice, wanted, heard in shown[:: max(1, len(shown) // 14)]
                ),
                flush=True,
            )
    write_json(arguments.out / "stt-history.json", {"training": history, "results": results})
    if arguments.dump:
        dump_codes(codec, examples.index, examples.audio, arguments.dump)


@torch.no_grad()
def dump_codes(codec: Codec, index: Index, audio: Audio, path: Path) -> None:
    """Write the codes of every sentence, undisturbed: for training on codes alone, without the
    speech.
    """
    frames = -(-np.diff(index.first) // FRAME_SAMPLES)
    order = np.argsort(frames, kind="stable")
    codes: list[np.ndarray] = [np.zeros(0)] * len(order)
    for rows in np.array_split(order, max(1, len(order) // 256)):
        longest = int(frames[rows].max())
        plan = {
            "out": torch.zeros(len(rows), 1),
            "source": torch.from_numpy(index.first[rows, None].astype(float)),
            "speed": torch.ones(len(rows), 1),
            "stop": torch.from_numpy(index.first[rows + 1, None].astype(float)),
        }
        pcm, _ = audio.assemble(plan, longest)
        found = (
            codec.quantizer.encode(codec.encoder.latents(pcm[:, None]), CODEBOOKS)
            .short()
            .cpu()
            .numpy()
        )
        for row, line in zip(rows, found, strict=True):
            codes[row] = line[:, : frames[row]]
    np.savez_compressed(
        path,
        codes=np.concatenate(codes, 1),
        frames=frames.astype(np.int32),
        voice=index.voice,
        text=np.frombuffer("\n".join(" ".join(line) for line in index.words).encode(), np.uint8),
        word_start=np.concatenate(index.starts).astype(np.float32),
        word_end=np.concatenate(index.ends).astype(np.float32),
    )


if __name__ == "__main__":
    main()
