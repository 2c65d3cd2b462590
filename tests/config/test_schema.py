"""The schema table against real configs, and its own consistency."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.config.lint import lint
from dsmops.config.lint.inputs import LintInputs
from dsmops.config.load import Config, parse_config
from dsmops.config.schema import (
    MODULES,
    PY_BATCHED_ASR,
    PY_TTS,
    PY_VOICE,
    TOP,
    Flag,
    Number,
    Section,
    ServerVersion,
    Text,
    Variants,
    Whole,
)
from dsmops.findings import Severity
from dsmops.models import STT_MODELS
from dsmops.shipped import shipped_folder

NAMES = ("config-stt-en_fr-hf.toml", "config-stt-en-hf.toml", "config-tts.toml")


@pytest.mark.parametrize("name", NAMES)
def test_ready_configs_say_what_upstream_says(name: str, shared_data: Path) -> None:
    """The server behaves with our file as with upstream's: same keys, same values, same types."""
    ours = tomllib.loads((shipped_folder("configs") / name).read_text())
    theirs = tomllib.loads((shared_data / "configs" / name).read_text())
    assert ours == theirs
    assert repr(ours) == repr(ours | theirs)


def test_the_low_ram_config_is_the_model_of_the_other_one() -> None:
    """It differs from the published config of the same model only where a small Turing card asks
    for it.
    """
    published, low = (
        tomllib.loads((shipped_folder("configs") / name).read_text())
        for name in (NAMES[0], "config-stt-en_fr-lowram-sm75.toml")
    )
    module, low_module = published["modules"]["asr"], low["modules"]["asr"]
    assert low_module["model"] == module["model"]
    assert {key for key in low_module if low_module[key] != module.get(key)} == {
        "lm_model_file",
        "batch_size",
        "dtype_override",
    }
    assert low_module["dtype_override"] == "f16"
    assert "." not in low["instance_name"]


@pytest.mark.parametrize("model", STT_MODELS.values(), ids=lambda model: model.name)
def test_the_model_table_agrees_with_the_ready_configs(model: Any) -> None:
    """Files, sizes, delay and batch of each published model are those of its config."""
    module = tomllib.loads((shipped_folder("configs") / model.preset).read_text())["modules"]["asr"]
    assert module["lm_model_file"] == f"hf://{model.hf_repo}/{model.model_file}"
    assert module["text_tokenizer_file"] == f"hf://{model.hf_repo}/{model.tokenizer_file}"
    assert module["audio_tokenizer_file"] == f"hf://{model.hf_repo}/{model.mimi_file}"


def test_only_what_can_be_left_out_has_a_default() -> None:
    """A required key has none, and every default is of its key's own type."""
    sections = [TOP, *MODULES.values(), PY_TTS, PY_BATCHED_ASR, PY_VOICE]
    kinds = {Text: str, Flag: bool, Whole: int, Number: int | float, Variants: dict}
    for section in sections:
        for name, key in section.keys.items():
            assert not (key.required and key.default is not None), name
            if key.default is not None:
                assert isinstance(key.default, kinds[type(key.type)]), name


def test_the_override_is_marked_with_its_version() -> None:
    """Every module type that loads a language model reads it, from 0.6.4 on, and no other type
    does.
    """
    with_lm = {kind for kind, section in MODULES.items() if "model" in section.keys}
    assert with_lm == {"Asr", "BatchedAsr", "Tts", "Lm"}
    assert {
        kind for kind, section in MODULES.items() if "dtype_override" in section.keys
    } == with_lm
    assert all(MODULES[kind].keys["dtype_override"].since == (0, 6, 4) for kind in with_lm)


def remove_each(values: Any, section: Section, where: tuple[str, ...] = ()) -> Any:
    """Yield every required key of a config that is there, with the config without it."""
    for name, key in section.keys.items():
        if name not in values:
            continue
        if key.required:
            yield (*where, name), {other: value for other, value in values.items() if other != name}
        if isinstance(key.type, Section):
            for inner_where, inner in remove_each(values[name], key.type, (*where, name)):
                yield inner_where, values | {name: inner}


def test_every_required_key_is_missed() -> None:
    """Whichever required key is taken out of a right config, the lint says so by its name."""
    values = tomllib.loads((shipped_folder("configs") / NAMES[0]).read_text())
    module = values["modules"]["asr"]
    cases = [
        ((key,), {other: value for other, value in values.items() if other != key})
        for key in ("static_dir", "log_dir", "instance_name")
    ]
    cases += [
        (("modules", "asr", *where), values | {"modules": {"asr": table}})
        for where, table in remove_each(module, MODULES["BatchedAsr"])
    ]
    assert len(cases) > 30
    for where, broken in cases:
        if where[-1] == "type":
            continue  # its absence is another message, and has a file of its own
        errors = [
            finding
            for finding in lint(Config("x", "", broken, {}), LintInputs()).findings
            if finding.code == "missing-key"
        ]
        assert [finding.where for finding in errors] == [".".join(where)]


PY = (
    '[modules.t]\ntype = "Py"\npath = "/t"\ntext_tokenizer_file = "x"\nbatch_size ='
    " 1\ntext_bos_token = 1\n[modules.t.py]\n"
)


@pytest.mark.parametrize(
    "line",
    [
        'n_q = "24"',
        "n_q = 24.0",
        "n_q = true",
        'temp = "0.6"',
        "temp = 1",
        "debug = 1",
        'debug = "yes"',
        "max_padding = ' 8 '",
    ],
)
def test_python_tables_accept_what_pydantic_turns_round(line: str) -> None:
    """The script's own reader is laxer than the server's."""
    assert "wrong-type" not in {
        finding.code for finding in lint(parse_config(PY + line), LintInputs()).findings
    }


@pytest.mark.parametrize(
    "line",
    [
        'n_q = "many"',
        "n_q = 24.5",
        "n_q = nan",
        "temp = 'warm'",
        "debug = 2",
        "tokenizer = 1",
        "n_q = []",
        "debug = []",
    ],
)
def test_python_tables_refuse_the_rest(line: str) -> None:
    """What pydantic cannot turn into the right type stops the module."""
    assert "wrong-type" in {
        finding.code for finding in lint(parse_config(PY + line), LintInputs()).findings
    }


@given(st.integers(0, 2**63 - 1))
def test_every_usize_is_taken(number: int) -> None:
    """Whole numbers up to the largest that TOML holds are not type errors."""
    text = f'[modules.t]\ntype = "PyBatchedAsr"\nasr_delay_in_tokens = {number}\n'
    codes = {
        finding.code
        for finding in lint(parse_config(text), LintInputs()).findings
        if finding.severity is Severity.ERROR
    }
    assert codes == {"missing-key"}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.6.4", (0, 6, 4)),
        ("v0.6.3", (0, 6, 3)),
        (" 0.7.0-rc1 ", (0, 7, 0)),
        ("1.10.2", (1, 10, 2)),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, int, int]) -> None:
    """With or without a v, and with whatever follows the three numbers."""
    assert ServerVersion.parse(text) == version


@pytest.mark.parametrize("text", ["", "latest", "0.6", "0.6.4.1", "0,6,4", "0.6.x"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """With a message that shows how to write one."""
    with pytest.raises(ValueError, match=r"0\.6\.4"):
        ServerVersion.parse(text)
