"""The config that `worker --model` and `smoke-test --model` write for a model's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsmops.config.load import read_config
from dsmops.config.modules import Module, modules
from dsmops.errors import InputError
from dsmops.files import state_folder
from dsmops.findings import Severity
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.configs.writing import write_model_config
from dsmops.shipped import shipped_models


def module_of(path: Path) -> Module:
    (module,) = modules(read_config(path))
    return module


def keys_of(path: Path) -> list[str]:
    keys = read_config(path).values["authorized_ids"]
    assert isinstance(keys, list)
    return keys


def test_it_names_the_shipped_files_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute names, in the state folder, readable by the user only, without lint errors."""
    monkeypatch.chdir(tmp_path)
    path = write_model_config("tiny", cpu=True)
    assert path == state_folder() / "configs" / "tiny.toml"
    assert path.stat().st_mode & 0o077 == 0
    module = module_of(path)
    for key in ("lm_model_file", "text_tokenizer_file", "audio_tokenizer_file"):
        file = Path(module.text(key) or "")
        assert file.parent == shipped_models()["tiny"]
        assert file.is_file()
    assert module.text("dtype_override") is None
    findings = lint_config(read_config(path)).findings
    assert not [found for found in findings if found.severity is Severity.ERROR]
    assert not list(tmp_path.iterdir())


def test_its_key_stays_until_another_is_given() -> None:
    """Clients keep working after a restart. The public token is never in it."""
    first = keys_of(write_model_config("tiny", cpu=True))
    assert keys_of(write_model_config("tiny", cpu=True)) == first
    assert first != ["public_token"]
    assert keys_of(write_model_config("tiny", cpu=True, api_key="mine")) == ["mine"]


def test_the_shipped_voice_has_one_too() -> None:
    """Files with absolute names, a key that stays, and no error."""
    path = write_model_config("tiny-tts")
    assert path == state_folder() / "configs" / "tiny-tts.toml"
    module = module_of(path)
    assert module.type == "Py"
    assert Path(module.text("text_tokenizer_file") or "").is_file()
    assert not [
        found
        for found in lint_config(read_config(path)).findings
        if found.severity is Severity.ERROR
    ]
    first = keys_of(path)
    assert keys_of(write_model_config("tiny-tts")) == first != ["public_token"]
    assert keys_of(write_model_config("tiny-tts", api_key="mine")) == ["mine"]


def test_a_published_model_has_one_too() -> None:
    """With the hub's files, and few slots for a processor."""
    module = module_of(write_model_config("stt-1b-en_fr", cpu=True))
    assert (module.text("lm_model_file") or "").startswith("hf://kyutai/")
    assert module.whole("batch_size") == 4


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(InputError, match="tinny") as error:
        write_model_config("tinny", cpu=True)
    assert "Did you mean tiny" in str(error.value.hint)
