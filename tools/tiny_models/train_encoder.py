"""Teach the encoder of a finished codec more voices: `python -m tools.tiny_models.train_encoder
SHARDS TOKENIZER START OUT`.

START is a folder that the recipe wrote. Codebooks and decoder stay as they are, so that codes mean
the same sounds and the TTS model stays valid. The language model trains along: its embedding tables
are nearly a linear map of the codebooks, and through that map its loss reaches the encoder.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from tools.tiny_models.batches import SPOKEN, disturb, read_shards, write_json
from tools.tiny_models.export import MIMI_FILE, keep_bits, write_mimi, write_stt
from tools.tiny_models.losses import MelLoss
from tools.tiny_models.networks import Codec, SttNet, stt_inputs
from tools.tiny_models.scores import evaluate, judge
from tools.tiny_models.settings import BINS, CODEBOOKS
from tools.tiny_models.speech import PHONES
from tools.tiny_models.train_codec import phone_loss, phone_targets, stt_loss
from tools.tiny_models.train_stt import start
from tools.tiny_models.training import (
    Examples,
    Rereading,
    Speech,
    adamw,
    average,
    decoded_again,
    is_matrix,
    plan_examples,
    rate_at,
    set_rate,
    set_up,
    training_shards,
)

_CROP_FRAMES = 16
WEIGHTS = {"commit": 0.25, "phone": 0.3, "phone_full": 0.2, "text": 1.0, "pause": 0.1, "mel": 1.0}


class Lesson(nn.Module):
    """Codec and language model with what only this training needs: the linear map from quantised
    vectors to embeddings, and two namers of phonemes.
    """

    def __init__(self, codec: Codec, net: SttNet) -> None:
        super().__init__()
        self.codec, self.net = codec, net
        quantizer = codec.quantizer
        books = torch.cat([quantizer.rvq_first.codebooks, quantizer.rvq_rest.codebooks]).float()
        tables = net.lm.emb.detach().view(CODEBOOKS, BINS + 1, -1)[:, :BINS]
        ones = torch.ones(CODEBOOKS, BINS, 1, device=books.device)
        known = torch.cat([books, ones], -1)
        fitted = torch.linalg.lstsq(known.cpu(), tables.cpu()).solution
        self.register_buffer("readers", fitted[:, :-1].to(books.device))
        width = books.shape[-1]
        self.phones = nn.Linear(width, 8 * len(PHONES))
        self.phones_full = nn.Linear(CODEBOOKS * width, 8 * len(PHONES))
        # Quantised vectors are tens long; the namers read them at about one.
        self.register_buffer("sizes", books.square().mean((1, 2)).sqrt())

    def encoder_parts(self) -> list[nn.Module]:
        """Return the parts of the encoder that learn."""
        encoder = self.codec.encoder
        return [encoder.encoder, encoder.encoder_transformer, encoder.downsample]

    def read(self, codes: Tensor, steps: Tensor) -> Tensor:
        """Return embeddings [B, T, D] of codes [B, K, T]: the tables' rows, with the gradient of
        the linear map of the vectors `steps` [B, K, T, dim].
        """
        linear = torch.einsum("bktc,kcd->btd", steps, self.readers)
        return self.net.audio(codes) + linear - linear.detach()

    def forward(
        self, heard: Tensor, wanted: Tensor, labels: Tensor, tokens: Tensor, pauses: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses, and the decoder's input [B, width, T]."""
        latents = self.codec.encoder.latents(heard[:, None])
        codes, steps, decoded, commitment = self.codec.quantize(latents, learn=False)
        losses = {"commit": commitment / self.sizes.square().mean()}
        scaled = steps / self.sizes[:, None, None]
        first, full = scaled[:, 0], scaled.transpose(1, 2).flatten(2)
        named = self.phones(first)
        losses["phone"] = phone_loss(named, labels)
        losses["phone_full"] = phone_loss(self.phones_full(full), labels)
        audio = self.read(codes, steps)
        initial = self.net.lm.emb.view(CODEBOOKS, BINS + 1, -1)[:, -1].sum(0)
        audio = torch.cat([initial.expand(len(audio), 1, -1).to(audio.dtype), audio[:, :-1]], 1)
        _, text = stt_inputs(codes, tokens, self.net.lm)
        logits, heads = self.net(audio, text)
        losses["text"], losses["pause"] = stt_loss(logits, heads, tokens, pauses)
        with torch.no_grad():
            spoken = tokens > 3
            losses["text_right"] = (logits.argmax(-1) == tokens)[spoken].float().mean()
            named = named.unflatten(-1, (8, len(PHONES))).argmax(-1)
            losses["phone_right"] = (named == phone_targets(labels)).float().mean()
        return losses, decoded


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tests", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="train for this long")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--through-codec", type=float, default=0.12)
    parser.add_argument("--bits", type=int, default=6, help="significant bits that weights keep")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--reload-s", type=float, nargs="*", default=[])
    parser.add_argument(
        "--judge-at-s",
        type=float,
        nargs="*",
        default=[],
        help="write the weights and count wrong words after these times; needs --tests",
    )
    parser.add_argument("--seed", type=int, default=3)
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
        )

    examples = plan(read_shards(training_shards(arguments.shards)), arguments.seed)
    codec, net = start(arguments.start, device)
    codec.requires_grad_(False)
    codec.decoder.eval()
    net.dropout = arguments.dropout
    lesson = Lesson(codec, net).to(device)
    mel = MelLoss().to(device)
    learning = [part.requires_grad_(True) for part in lesson.encoder_parts()]
    learning += [lesson.net, lesson.phones, lesson.phones_full]
    parameters = [value for part in learning for value in part.parameters()]
    kept = copy.deepcopy(lesson).requires_grad_(False)
    averaged = [
        pair
        for mine, other in zip(
            [*lesson.encoder_parts(), lesson.net], [*kept.encoder_parts(), kept.net], strict=True
        )
        for pair in zip(mine.parameters(), other.parameters(), strict=True)
    ]
    optimizer = adamw(parameters, arguments.rate, weight_decay=0.02, decays=is_matrix)
    began, number, history = time.time(), 0, []
    arguments.out.mkdir(parents=True, exist_ok=True)

    @torch.no_grad()
    def write(folder: Path) -> Codec:
        """Write the averaged weights, rounded, and return their codec."""
        folder.mkdir(exist_ok=True)
        stored = copy.deepcopy(kept)
        for part in stored.encoder_parts():
            for value in part.parameters():
                value.copy_(keep_bits(value, arguments.bits))
        write_mimi(stored.codec, folder / MIMI_FILE)
        write_stt(stored.net.lm, folder)
        return stored.codec

    again = Rereading(arguments.shards, arguments.reload_s)
    while True:
        passed_s = time.time() - began
        passed = max(passed_s / arguments.seconds, number / arguments.steps)
        if passed >= 1:
            break
        if speech := again.fresh(passed_s):
            examples = plan(speech, arguments.seed + 100 + number)
        set_rate(optimizer, rate_at(arguments.rate, number, passed))
        batch = next(examples.batches)
        # Half of a step's time goes into starting small products. So a step either runs the
        # decoder or takes streams that the codec decoded, each at twice the weight.
        with_decoder = number % 2 == 1
        with torch.no_grad():
            pcm, labels = examples.audio.assemble(batch, arguments.frames)
            heard, wanted = disturb(pcm)
            rows = 0 if with_decoder else int(2 * arguments.through_codec * len(heard))
            if rows:
                heard[:rows] = decoded_again(codec, codec.encoder.latents, pcm[:rows])
        tokens, pauses = batch["tokens"].to(device), batch["pauses"].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses, decoded = lesson(heard, wanted, labels, tokens, pauses)
            if with_decoder:
                last = slice(len(pcm) - max(1, len(pcm) // 3), len(pcm))
                first = int(torch.randint(4, arguments.frames - _CROP_FRAMES + 1, ()))
                made = codec.synthesise(decoded[last], first, _CROP_FRAMES)[:, 0].float()
        if with_decoder:
            crop = slice(first * 1920, (first + _CROP_FRAMES) * 1920)
            losses["mel"] = mel(made, wanted[last, crop])
        total = torch.stack([WEIGHTS.get(name, 0.0) * loss for name, loss in losses.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        number += 1
        average(
            [other for _, other in averaged], [mine for mine, _ in averaged], number, most=0.998
        )
        if number % 50 == 0 or number < 4:
            row = {name: round(value.item(), 4) for name, value in losses.items()} | {
                "step": number,
                "s": round(time.time() - began, 1),
            }
            history.append(row)
            print(row, flush=True)
        if arguments.judge_at_s and time.time() - began > arguments.judge_at_s[0]:
            del arguments.judge_at_s[0]
            stored = write(arguments.out)
            scores = judge(kept.net, stored, arguments.tests, processor, device)
            history.append({"step": number, "s": round(time.time() - began, 1)} | scores)
            print(history[-1], flush=True)
            write_json(arguments.out / "encoder-history.json", {"training": history})
    stored = write(arguments.out)
    results = {}
    if arguments.tests:
        for path in sorted(arguments.tests.glob("test-*.npz")):
            results[path.stem] = evaluate(kept.net, stored, path, processor, device)
            results[path.stem].pop("examples")
            print(path.stem, results[path.stem], flush=True)
    write_json(arguments.out / "encoder-history.json", {"training": history, "results": results})


if __name__ == "__main__":
    main()
