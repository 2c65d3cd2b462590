"""The text tokenizer of a DSM model: a SentencePiece file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from dsmops.errors import InputError
from dsmops.files import os_errors


def load_tokenizer(path: Path, tokens: int) -> TextTokenizer:
    """Return the tokenizer in `path`, for a language model of so many text tokens.

    Raises:
        InputError: it is not a SentencePiece model, or has another number of pieces.
        SourceError: it is not there.
    """
    tokenizer = TextTokenizer(path)
    if tokenizer.size != tokens:
        raise InputError(
            f"{path} has {tokenizer.size} pieces; the model has {tokens} text tokens",
            hint="Take the tokenizer from the model's own repository.",
            code="tokenizer.mismatch",
        )
    return tokenizer


class TextTokenizer:
    """Ids to text and back.

    Ids of pieces count from 0; those up to 3 are special and carry no text.
    """

    def __init__(self, path: Path) -> None:
        """Read the model in `path`.

        Raises:
            InputError: it is not a SentencePiece model.
            SourceError: it is not there.
        """
        with os_errors(path):
            data = path.read_bytes()
        try:
            self._pieces = SentencePieceProcessor(model_proto=data)
            self.size: int = self._pieces.vocab_size()
        except RuntimeError as exc:
            raise InputError(
                f"{path} is not a SentencePiece model",
                hint="It is the repository's tokenizer_*.model file.",
                code="tokenizer.unreadable",
            ) from exc

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`.

        Ids beyond the vocabulary, which a broken model can produce, are dropped.
        """
        return str(self._pieces.decode([token for token in ids if token < self.size]))

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        return list(self._pieces.encode(text))
