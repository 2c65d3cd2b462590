"""The environment means to dsmops what it means to huggingface_hub."""

import json
import os
import subprocess
import sys

import pytest

from dsmops.errors import InputError
from dsmops.hub.settings import read_settings

_ASK_BOTH = """
import json
from huggingface_hub import constants
from dsmops.hub.settings import read_settings
ours = read_settings()
theirs = [constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE,
          constants.HF_HUB_DOWNLOAD_TIMEOUT]
print(json.dumps([theirs, [ours.endpoint, str(ours.cache), ours.offline, ours.timeout_s]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HOME": "~/somewhere"},
        {"HF_HOME": "$SCRATCH/hf"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HOME": "/a", "HF_HUB_CACHE": "/b/$USERNAME/hub"},
        {"HF_HOME": "/a", "HUGGINGFACE_HUB_CACHE": "/c"},
        {
            "HF_ENDPOINT": "https://hub.example/path/",
            "HF_HUB_OFFLINE": "yes",
            "HF_HUB_DOWNLOAD_TIMEOUT": "33",
        },
        {"TRANSFORMERS_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"},
    ],
    ids=str,
)
def test_settings_agree_with_huggingface_hub(variables: dict[str, str]) -> None:
    """Endpoint, cache folder, offline mode and time-out are what huggingface_hub itself makes of
    the same variables.
    """
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGINGFACE", "XDG", "TRANSFORMERS"))
    }
    env = {**plain, "SCRATCH": "/scratch", "USERNAME": "me", **variables}
    done = subprocess.run(
        [sys.executable, "-c", _ASK_BOTH], env=env, capture_output=True, text=True, check=True
    )
    theirs, ours = json.loads(done.stdout)
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_ENDPOINT", "huggingface.co"), ("HF_ENDPOINT", ""), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")],
)
def test_an_unusable_variable_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that cannot be used is an input error that names it, not a traceback from a
    library.
    """
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=name):
        read_settings()
