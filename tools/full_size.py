"""`python -m tools.full_size FOLDER`: published models at full size with made-up weights, and a
server config for each.

For speed and memory, which do not depend on values. Speech to text takes 2.4 GB of disk, the 2.6B
5.6 GB, text to speech 4.1 GB.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import sys
from pathlib import Path

from dsmops.models import DEFAULT_STT, STT_MODELS, TTS_MODELS
from dsmops.shipped import shipped_folder
from dsmops.worker.models.loading import mimi_tensors
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.tiny.stt import write_tiny_stt
from tests.support.networks import FULL_TTS_CONFIG_BODY, random_weights, write_mimi
from tests.support.synthetic import write_checkpoint

STT, TTS = DEFAULT_STT.name, "tts-1.6b-en_fr"
LARGER_STT = "stt-2.6b-en"
VOICE = "made-up.wav"
_STT_FILES = {
    STT: ("stt", "config-stt-en_fr-hf.toml"),
    LARGER_STT: ("stt-2.6b", "config-stt-en-hf.toml"),
}
"""By model: the stem of its files, and the config that it is written into."""
_TOKENIZER, _MIMI = "tokenizer.model", "mimi.safetensors"


def larger_tokenizer(tokenizer: bytes, pieces: int, there: int) -> bytes:
    """Return a SentencePiece model with made-up pieces added until it has `pieces`; messages of its
    format may simply be continued.
    """
    added = b""
    for number in range(there, pieces):
        text = f"▁w{number}".encode()
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", -float(number))
        added += b"\x0a" + bytes([len(piece)]) + piece
    return tokenizer + added


def write_tokenizer(path: Path, pieces: int) -> None:
    """Write a tokenizer of so many pieces that knows the letters."""
    tiny = write_tiny_stt(path.parent / "tiny").files.tokenizer
    there = int(tiny.stem.rpartition("_")[2])
    path.write_bytes(larger_tokenizer(tiny.read_bytes(), pieces, there))


def write_codec(path: Path) -> None:
    """Write Mimi at its published size."""
    if not path.exists():
        write_mimi(path, random_weights(mimi_tensors(MimiConfig())), config=None)


def write_stt(folder: Path, batch_size: int, *, api_key: str, model: str = STT) -> Path:
    """Write a model in f16, files that are there already left alone, and return its config."""
    shape = STT_MODELS[model].shape
    stem, template = _STT_FILES[model]
    folder.mkdir(parents=True, exist_ok=True)
    lm, tokenizer = folder / f"{stem}.safetensors", folder / f"{stem}-{_TOKENIZER}"
    if not lm.exists():
        write_tokenizer(tokenizer, shape.text_out_vocab_size)
        write_codec(folder / _MIMI)
        write_checkpoint(lm, {name: ("F16", size) for name, size in shape.tensors().items()})
    return _write_config(
        folder / f"{stem}-{batch_size}.toml",
        template,
        {
            "authorized_ids": [api_key],
            "lm_model_file": str(lm),
            "text_tokenizer_file": str(tokenizer),
            "audio_tokenizer_file": str(folder / _MIMI),
            "batch_size": batch_size,
            "log_dir": str(folder / "logs"),
        },
    )


def write_tts(folder: Path, batch_size: int, *, api_key: str) -> Path:
    """Write the 1.6B in bf16 with one voice, and return its config."""
    config = TtsConfig.from_json(FULL_TTS_CONFIG_BODY)
    folder.mkdir(parents=True, exist_ok=True)
    lm, body = folder / "tts.safetensors", folder / "config.json"
    if not lm.exists():
        layout = {
            name: ("F32" if name.startswith("condition_provider.") else "BF16", size)
            for name, size in config.shape.tensors().items()
        }
        write_checkpoint(lm, layout)
        body.write_text(json.dumps(FULL_TTS_CONFIG_BODY), encoding="utf-8")
        write_tokenizer(
            folder / "tts-tokenizer.model", TTS_MODELS[TTS].shape.lm.text_out_vocab_size
        )
        write_codec(folder / _MIMI)
        signature = {key: str(value) for key, value in FULL_TTS_CONFIG_BODY["model_id"].items()}
        voice = {"speaker_wavs": ("F32", (1, *config.voice_shape))}
        (folder / "voices").mkdir(exist_ok=True)
        write_checkpoint(
            folder / "voices" / f"{VOICE}{config.voice_suffix}", voice, metadata=signature
        )
    path = _write_config(
        folder / f"tts-{batch_size}.toml",
        "config-tts.toml",
        {
            "authorized_ids": [api_key],
            "text_tokenizer_file": str(folder / "tts-tokenizer.model"),
            "batch_size": batch_size,
            "voice_folder": str(folder / "voices"),
            "default_voice": VOICE,
            "n_q": config.shape.lm.audio_codebooks,
            "log_dir": str(folder / "logs"),
            "log_folder": str(folder / "logs"),
        },
    )
    files = {
        "moshi_weight": lm,
        "mimi_weight": folder / _MIMI,
        "config_path": body,
        "tokenizer": folder / "tts-tokenizer.model",
    }
    with path.open("a", encoding="utf-8") as config_file:
        for key, file in files.items():
            config_file.write(f"{key} = {json.dumps(str(file))}\n")
    return path


def _write_config(path: Path, template: str, values: dict[str, object]) -> Path:
    """Write a shipped config with other values, each of which stands in it once."""
    text = (shipped_folder("configs") / template).read_text(encoding="utf-8")
    for key, value in values.items():
        # Backslashes would be references in a replacement.
        line = f"{key} = {json.dumps(value)}".replace("\\", r"\\")
        text, count = re.subn(rf"(?m)^{key} = .*$", line, text)
        if count != 1:
            raise ValueError(f"{template} has {key} {count} times")
    path.write_text(text, encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tools.full_size", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=[STT, LARGER_STT, TTS], default=STT)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--api-key", default="a made-up key")
    chosen = parser.parse_args(arguments)
    folder, slots, key = chosen.folder.absolute(), chosen.batch_size, chosen.api_key
    if chosen.model == TTS:
        print(write_tts(folder, slots, api_key=key))
    else:
        print(write_stt(folder, slots, api_key=key, model=chosen.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
