"""The trained tiny models in one worker, as an operator would serve both."""

from __future__ import annotations

import json
from pathlib import Path

from dsmops.shipped import shipped_folder, shipped_models

KEY = "a key of the tests"
RECORDINGS = shipped_folder("models") / "recordings"
SPOKEN = json.loads((RECORDINGS / "manifest.jsonl").read_text("utf-8").splitlines()[1])
"""A recording of which the tiny model gets every word."""

_TTS = """
[modules.tts]
type = "Py"
path = "/api/tts_streaming"
text_tokenizer_file = "{folder}/tokenizer_tiny_en_1200.model"
batch_size = 2
text_bos_token = 1

[modules.tts.py]
moshi_weight = "{folder}/tts.safetensors"
mimi_weight = "{folder}/mimi-tiny@1.safetensors"
config_path = "{folder}/config-tts.json"
voice_folder = "{folder}/voices"
default_voice = "hibari"
cfg_coef = 2.0
n_q = 6
"""


def write_config(folder: Path) -> Path:
    """Write the config of a server with both models into `folder`, and return where it is."""
    models = shipped_models()["tiny"]
    stt = (shipped_folder("configs") / "config-stt-tiny.toml").read_text("utf-8")
    stt = stt.replace('"models/tiny/', f'"{models}/')
    stt = stt.replace('"logs/moshi-logs/raw"', f'"{folder}/logs"')
    stt = stt.replace('["public_token"]', f'["{KEY}"]')
    path = folder / "tiny-both.toml"
    path.write_text(stt + _TTS.format(folder=models), "utf-8")
    return path
