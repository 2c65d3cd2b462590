"""Train the tokenizer: `python -m tools.tiny_models.tokenizer FILE`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tools.tiny_models.settings import TEXT_CARD
from tools.tiny_models.speech import spoken_words
from tools.tiny_models.text import TextGenerator
from tools.tiny_models.words import vocabulary


def train(sentences: int = 60_000) -> bytes:
    """Return a SentencePiece model of `TEXT_CARD` pieces: bytes for what is unknown, capitals read
    as small letters.
    """
    generator = TextGenerator("tokenizer")
    lines = [
        " ".join(spoken_words(generator.sentence())) for _ in range(sentences)
    ] + vocabulary() * 3
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=TEXT_CARD,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc_cf",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return model.getvalue()


def pieces(path: Path, words: set[str]) -> dict[str, list[int]]:
    """Return the pieces of each word."""
    processor = SentencePieceProcessor(model_file=str(path))
    return {word: processor.encode(word) for word in words}


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(train())
