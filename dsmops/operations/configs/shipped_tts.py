"""The config of a text-to-speech model that travels with the package, for the embedded worker."""

from __future__ import annotations

import json
from pathlib import Path

from dsmops.shipped import shipped_configs

BATCH_SIZE = 2
"""Texts at once: each takes about half of a processor core in real time."""
TITLE = (
    "Text to speech with the small trained model that travels with dsmops, on any CPU.\n"
    "moshi-server reads only the published Mimi, so it cannot serve this model."
)


def is_shipped_tts(name: str) -> bool:
    """Return whether `name` is such a model, like `tiny-tts`."""
    return name.endswith("-tts") and name in shipped_configs()


def shipped_tts_name(config: Path) -> str:
    """Return the name of the model that this `config.json` belongs to, empty for any other."""
    names = (name for name, path in shipped_configs().items() if path == config.resolve())
    return next(names, "")


def shipped_tts_module(name: str, batch_size: int = BATCH_SIZE) -> str:
    """Return the TOML of its module, with absolute names of its files."""
    config = shipped_configs()[name]
    body = json.loads(config.read_text("utf-8"))
    folder = config.parent
    return f"""
[modules.tts]
type = "Py"
path = "/api/tts_streaming"
text_tokenizer_file = {json.dumps(str(folder / body["tokenizer_name"]))}
batch_size = {batch_size}
text_bos_token = 1

[modules.tts.py]
moshi_weight = {json.dumps(str(folder / body["moshi_name"]))}
mimi_weight = {json.dumps(str(folder / body["mimi_name"]))}
config_path = {json.dumps(str(config))}
voice_folder = {json.dumps(str(folder / "voices"))}
default_voice = "hibari"
n_q = {body["n_q"]}
temp = {body["lm_gen_config"]["temp"]}
"""
