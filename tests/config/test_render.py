"""Templates filled in: what was asked for changes, everything else stays as it was, byte for
byte.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.config.lint import LintInputs, lint
from dsmops.config.load import parse_config
from dsmops.config.render import ConfigSettings, diff, generate_api_key, own_api_keys, render
from dsmops.config.schema import ServerVersion
from dsmops.devices import ComputeCapability, Device
from dsmops.dtypes import ComputeDType
from dsmops.errors import ConfigError, InputError
from dsmops.shipped import shipped_folder
from tests.support.toml import documents

STT = sorted(shipped_folder("configs").glob("config-stt-*.toml"))
ALL = ConfigSettings(
    lm_model_file="assets/fp16/stt.fp16.safetensors",
    text_tokenizer_file='odd "name".model',
    audio_tokenizer_file="C:\\mimi.safetensors",
    dtype_override=ComputeDType.F16,
    batch_size=22,
    context=375,
    authorized_ids=("a-key-of-our-own", "and-another-one"),
    log_dir="logs/moshi-logs/raw",
    static_dir="static",
    instance_name="stt-22",
)


def text_of(path: Path) -> str:
    """The template as it is in the file."""
    return path.read_bytes().decode()


def changed_lines(old: str, new: str) -> tuple[list[str], list[str]]:
    """The lines that are gone, and those that are new."""
    lines = list(difflib.ndiff(old.splitlines(keepends=True), new.splitlines(keepends=True)))
    return [line[2:] for line in lines if line.startswith("- ")], [
        line[2:] for line in lines if line.startswith("+ ")
    ]


@pytest.mark.parametrize(
    "path", sorted(shipped_folder("configs").glob("*.toml")), ids=lambda path: path.stem
)
def test_nothing_to_set_changes_nothing(path: Path) -> None:
    """Without settings the result is the template itself."""
    assert render(text_of(path), ConfigSettings()) == text_of(path)


@pytest.mark.slow
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("path", STT, ids=lambda path: path.stem)
def test_everything_set_is_there_and_the_rest_stays(path: Path, newline: str) -> None:
    """All settings arrive where the server reads them; comments, order and line endings of the
    other lines stay.
    """
    template = text_of(path).replace("\n", newline)
    text = render(template, ALL)
    values = tomllib.loads(text)
    module = values["modules"]["asr"]
    assert values["authorized_ids"] == ["a-key-of-our-own", "and-another-one"]
    assert (values["log_dir"], values["static_dir"], values["instance_name"]) == (
        "logs/moshi-logs/raw",
        "static",
        "stt-22",
    )
    assert (
        module["dtype_override"],
        module["batch_size"],
        module["model"]["transformer"]["context"],
    ) == ("f16", 22, 375)
    assert module["lm_model_file"] == "assets/fp16/stt.fp16.safetensors"
    assert (module["text_tokenizer_file"], module["audio_tokenizer_file"]) == (
        'odd "name".model',
        "C:\\mimi.safetensors",
    )
    gone, new = changed_lines(template, text)
    assert len(gone) <= 10
    assert len(new) <= 13
    assert [line for line in text.splitlines() if "#" not in line and line not in new] != []
    comments = [line.partition("#")[2] for line in template.splitlines() if "#" in line]
    kept = [line.partition("#")[2] for line in text.splitlines() if "#" in line]
    assert [comment for comment in kept if comment in comments] == comments
    assert (text.count("\r\n"), text.count("\n")) == (
        (text.count("\n"), text.count("\n")) if newline == "\r\n" else (0, text.count("\n"))
    )


def test_a_new_override_stands_below_the_batch_size_and_says_why() -> None:
    """The line that decides everything on Turing is next to the other one that operators change."""
    text = render(
        text_of(shipped_folder("configs") / "config-stt-en_fr-hf.toml"),
        ConfigSettings(dtype_override=ComputeDType.F16),
    )
    lines = text.splitlines()
    batch = next(index for index, line in enumerate(lines) if line.startswith("batch_size"))
    assert "bf16" in lines[batch + 1]
    assert "0.6.4" in lines[batch + 2]
    assert lines[batch + 3] == 'dtype_override = "f16"'


def test_a_value_that_is_right_already_is_left_as_it_is_written() -> None:
    """An array over several lines, or a number with underscores, is not rewritten for nothing."""
    text = (
        '# keys\nauthorized_ids = [\n  "one-key",  # ours\n]\n[modules.a]\ntype = "Py"\nbatch_size'
        " = 1_6 # many\n"
    )
    assert render(text, ConfigSettings(authorized_ids=("one-key",), batch_size=16)) == text


def test_rendering_twice_changes_nothing_more() -> None:
    """The result is its own template."""
    once = render(text_of(STT[0]), ALL)
    assert render(once, ALL) == once


@pytest.mark.parametrize(
    "text",
    [
        '[modules.asr]\ntype = "BatchedAsr"\nbatch_size = 4',
        '[modules.asr]\nbatch_size = 4 # last line without an end\r\ntype = "BatchedAsr"',
        'modules.asr.type = "BatchedAsr"\nmodules.asr.batch_size = 4\n',
        'modules = { asr = { type = "BatchedAsr", batch_size = 4 } }\n',
        '[modules]\nasr = { type = "BatchedAsr" }\n',
        '[modules.asr]\n"type" = "Asr"\n[modules.asr.model]\nx = 1\n',
        '[modules]\n[modules.asr]\n  type = "Lm"\n[other]\na = 1\n[modules.asr.model]\nx = 1\n',
        '[modules.asr]\ntype = """BatchedAsr"""\n',
    ],
)
def test_a_key_finds_its_place_in_any_layout(text: str) -> None:
    """Missing keys are added to plain lines, dotted keys and inline tables alike, at the top level
    too.
    """
    values = tomllib.loads(
        render(
            text,
            ConfigSettings(
                dtype_override=ComputeDType.F32, authorized_ids=("key",), log_dir="logs"
            ),
        )
    )
    assert values["modules"]["asr"]["dtype_override"] == "f32"
    assert values["authorized_ids"] == ["key"]
    assert values["log_dir"] == "logs"
    assert values["modules"]["asr"]["type"] == tomllib.loads(text)["modules"]["asr"]["type"]


@pytest.mark.slow
@given(documents(), st.sampled_from(["top", "module", "both"]), st.booleans())
def test_lines_that_are_not_meant_stay_in_any_document(
    document: tuple[str, Any], present: str, ends: bool
) -> None:
    """In documents of any layout, keys are replaced in their lines or added as lines, and no other
    line or line ending changes.
    """
    body, _ = document
    newline = "\r\n" if "\r\n" in body else "\n"
    head = f'log_dir = "old" # where{newline}' if present != "module" else ""
    keys = [
        'type = "BatchedAsr"',
        *(['  dtype_override = "bf16" # why'] if present != "top" else []),
        "  batch_size = 4 # streams",
    ]
    template = newline.join([head + body, "[modules.asr]", *keys]) + (newline if ends else "")
    text = render(
        template, ConfigSettings(batch_size=8, log_dir="new", dtype_override=ComputeDType.F16)
    )
    wanted = tomllib.loads(template)
    wanted["modules"]["asr"] |= {"batch_size": 8, "dtype_override": "f16"}
    wanted["log_dir"] = "new"
    assert tomllib.loads(text) == wanted
    gone, new = changed_lines(template, text)
    replaced = {
        'log_dir = "old" # where',
        'dtype_override = "bf16" # why',
        "batch_size = 4 # streams",
    }
    assert {line.strip() for line in gone} == {line for line in replaced if line in template}
    assert len(new) == 3 + (2 if present == "top" else 0)
    if "\n" not in template.replace("\r\n", ""):
        assert "\n" not in text.replace("\r\n", "")


def test_settings_that_no_module_takes_are_refused() -> None:
    """A Python module has no dtype, a hearing one no codebooks; two models in one template leave
    open which is meant.
    """
    tts = text_of(shipped_folder("configs") / "config-tts.toml")
    with pytest.raises(InputError, match="no dtype_override"):
        render(tts, ConfigSettings(dtype_override=ComputeDType.F16))
    with pytest.raises(InputError, match="no n_q"):
        render(text_of(STT[0]), ConfigSettings(n_q=8))
    assert (
        tomllib.loads(render(tts, ConfigSettings(batch_size=2)))["modules"]["tts_py"]["batch_size"]
        == 2
    )
    two = text_of(STT[0]) + '\n[modules.second]\ntype = "Asr"\n'
    with pytest.raises(InputError, match="asr, second"):
        render(two, ConfigSettings(batch_size=2))
    with pytest.raises(InputError, match="it has 0"):
        render("a = 1\n", ConfigSettings(batch_size=2))
    with pytest.raises(ConfigError):
        render("a = ", ConfigSettings())


def test_the_files_of_a_speaking_module_go_where_its_script_reads_them() -> None:
    """Into the py table, the tokenizer into the module's own key too; every comment and all other
    keys stay.
    """
    tts = text_of(shipped_folder("configs") / "config-tts.toml")
    settings = ConfigSettings(
        lm_model_file="lm",
        text_tokenizer_file="pieces",
        audio_tokenizer_file="codec",
        model_config_file="config",
        n_q=8,
    )
    made = render(tts, settings)
    module, before = (tomllib.loads(text)["modules"]["tts_py"] for text in (made, tts))
    wanted = {
        "moshi_weight": "lm",
        "tokenizer": "pieces",
        "mimi_weight": "codec",
        "config_path": "config",
        "n_q": 8,
    }
    assert module == {**before, "text_tokenizer_file": "pieces", "py": {**before["py"], **wanted}}
    assert made.count("#") == tts.count("#")


def test_the_speech_module_is_found_beside_others() -> None:
    """Settings go to the one module that loads a language model, whatever else the server runs."""
    both = (
        text_of(STT[0])
        + text_of(shipped_folder("configs") / "config-tts.toml")
        .partition("authorized_ids")[2]
        .partition("\n")[2]
    )
    values = tomllib.loads(render(both, ConfigSettings(batch_size=3)))["modules"]
    assert (values["asr"]["batch_size"], values["tts_py"]["batch_size"]) == (3, 8)


@pytest.mark.parametrize("path", STT, ids=lambda path: path.stem)
def test_a_rendered_config_lints_clean_on_turing(path: Path) -> None:
    """A ready config with an override, a fitting batch and a key of its own has no errors on a T4,
    and no warning about access.
    """
    t4 = Device(
        "Tesla T4",
        ComputeCapability(7, 5),
        15 << 30,
        15 << 30,
        320 * 10**9,
        0,
        0,
        None,
        "simulated",
    )
    text = render(
        text_of(path),
        ConfigSettings(
            dtype_override=ComputeDType.F16, batch_size=8, authorized_ids=(generate_api_key(),)
        ),
    )
    report = lint(
        parse_config(text),
        LintInputs(
            environ={"HOME": "/h"},
            device=t4,
            server_version=ServerVersion(0, 6, 4),
            addr="127.0.0.1",
        ),
    )
    assert report.counts.errors == 0
    # The small model needs no key of the hub, so its config has none that has no effect.
    expected = set() if "tiny" in path.name else {"ineffective-key"}
    assert {finding.code for finding in report.findings} == expected


def test_a_diff_shows_what_changes() -> None:
    """One line out, one line in, under the name of the file; nothing at all for equal texts."""
    shown = diff("a = 1\nb = 2\n", "a = 1\nb = 3\n", name="my.toml")
    assert "-b = 2" in shown
    assert "+b = 3" in shown
    assert "my.toml" in shown
    assert diff("a = 1\n", "a = 1\n") == ""


def test_generated_keys_are_long_and_differ() -> None:
    """256 bits in characters that need no quoting anywhere."""
    first, second = generate_api_key(), generate_api_key()
    assert first != second
    assert len(first) == 43
    assert first.replace("-", "").replace("_", "").isalnum()


def test_own_keys_are_told_from_the_public_one() -> None:
    """Rendering again keeps what an operator put there, and not what everybody knows."""
    assert own_api_keys(parse_config('authorized_ids = ["public_token", "mine"]')) == ("mine",)
    assert own_api_keys(parse_config('authorized_ids = "mine"')) == ()
    assert own_api_keys(parse_config("")) == ()
