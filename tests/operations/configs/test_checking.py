"""`check-config` against real files: local ones, ones in the hub cache, damaged ones."""

import json
import os
import socket
from pathlib import Path

import pytest

from dsmops.checkpoint.export import Runtime as ExportRuntime
from dsmops.checkpoint.export import export, plan_export
from dsmops.config.load import parse_config, read_config
from dsmops.config.schema import ServerVersion
from dsmops.dtypes import ALL_INT8
from dsmops.errors import ConfigError, InputError
from dsmops.models import MIMI_TENSOR_PROBES
from dsmops.operations.configs.checking import check_files, lint_config
from dsmops.operations.configs.planning import find_device
from tests.support.tiny_checkpoint import (
    CONFIG,
    MIMI_FILE,
    TINY,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    tokenizer,
    write_tiny_server,
    write_zeros,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete server in its own folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_tiny_server(tmp_path)


def codes(path: Path) -> dict[str, str]:
    """Key → code of what is found, with version and address given."""
    (checked,) = check_files([path], server_version=ServerVersion(0, 6, 4), addr="127.0.0.1").files
    return {
        finding.where.removeprefix("modules.asr."): finding.code for finding in checked.findings
    }


def test_a_complete_server_is_clean(config: Path) -> None:
    """Real headers that match, and nothing to say."""
    assert codes(config) == {}


@pytest.mark.parametrize(
    ("name", "content", "key", "code"),
    [
        (WEIGHTS_FILE, None, "lm_model_file", "file-missing"),
        (WEIGHTS_FILE, b"", "lm_model_file", "not-safetensors"),
        (MIMI_FILE, b"\xff" * 64, "audio_tokenizer_file", "not-safetensors"),
        (TOKENIZER_FILE, b"{}", "text_tokenizer_file", "not-a-tokenizer"),
        (TOKENIZER_FILE, tokenizer(41), "text_tokenizer_file", "tokenizer-size"),
        (TOKENIZER_FILE, b"\n" * (5 << 20), "text_tokenizer_file", "not-a-tokenizer"),
    ],
)
def test_each_file_is_looked_into(
    config: Path, name: str, content: bytes | None, key: str, code: str
) -> None:
    """Absent, empty, damaged and mistaken files are distinguished."""
    path = config.parent / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert codes(config) == {key: code}


def test_an_int8_file_is_for_the_embedded_worker_only(config: Path) -> None:
    """A warning, because moshi-server and the worker take the same configs."""
    weights = config.with_name(WEIGHTS_FILE)
    plain = config.with_name("plain.safetensors")
    weights.rename(plain)
    export(plan_export(plain, weights, ExportRuntime.MOSHI, "int8"), digest=False, fsync=False)
    assert codes(config) == {"lm_model_file": "int8-file"}
    (for_worker,) = check_files([config], addr="127.0.0.1", quantised=ALL_INT8).files
    assert "int8-file" not in {finding.code for finding in for_worker.findings}


def test_a_truncated_checkpoint_is_seen(config: Path) -> None:
    """A download that broke off has a good header and too little data; the server would fail, and
    so does the check.
    """
    path = config.parent / WEIGHTS_FILE
    os.truncate(path, path.stat().st_size - 1)
    assert codes(config) == {"lm_model_file": "not-safetensors"}


def test_a_folder_in_place_of_a_file(config: Path) -> None:
    """A folder of shards is not a file, and the server takes files only."""
    (config.parent / WEIGHTS_FILE).unlink()
    (config.parent / WEIGHTS_FILE).mkdir()
    assert codes(config) == {"lm_model_file": "not-safetensors"}


def test_a_pipe_in_place_of_a_file(config: Path) -> None:
    """What is not a file is not opened, for that could take forever."""
    (config.parent / TOKENIZER_FILE).unlink()
    os.mkfifo(config.parent / TOKENIZER_FILE)
    assert codes(config) == {"text_tokenizer_file": "not-a-tokenizer"}


PY_MODULE = f"""
[modules.tts]
type = "Py"
path = "/api/tts_streaming"
text_tokenizer_file = "{TOKENIZER_FILE}"
batch_size = 1
text_bos_token = 1

[modules.tts.py]
"""


@pytest.mark.parametrize("first", [True, False])
def test_one_file_is_looked_at_for_each_of_its_roles(config: Path, *, first: bool) -> None:
    """A file that a script opens may be the Mimi of another module; which module comes first does
    not matter.
    """
    table = PY_MODULE + f'mimi_weight = "{MIMI_FILE}"\ntokenizer = "{TOKENIZER_FILE}"\n'
    top, asr, rest = CONFIG.partition("[modules.asr]")
    config.write_text(top + table + asr + rest if first else CONFIG + table)
    assert codes(config) == {}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f'moshi_weight = "{WEIGHTS_FILE}"', "not-tts"),
        (f'moshi_weight = "{MIMI_FILE}"', "swapped-files"),
        (f'mimi_weight = "{WEIGHTS_FILE}"', "swapped-files"),
        (f'tokenizer = "{WEIGHTS_FILE}"', "not-a-tokenizer"),
        (f'config_path = "{WEIGHTS_FILE}"', "bad-model-config"),
        ('config_path = "stt.json"', "bad-model-config"),
        ('config_path = "absent.json"', "file-missing"),
        ('voice_folder = "absent"', "file-missing"),
        ('default_voice = "me.wav"\nvoice_folder = "voices"', None),
        ('default_voice = "you.wav"\nvoice_folder = "voices"', "bad-voice"),
        ('config_path = "tts.json"\nn_q = 8\ncfg_coef = 1.5', None),
        ('config_path = "tts.json"\nn_q = 9', "bad-n-q"),
        ('config_path = "tts.json"\ncfg_coef = 2.0', "bad-cfg"),
    ],
)
def test_the_files_of_a_speaking_module_are_looked_into(
    config: Path, line: str, code: str | None
) -> None:
    """Weights, codec, tokenizer, the model's own config and the voices: each wrong one has its
    code, and the config's numbers count.
    """
    folder = config.parent
    (folder / "stt.json").write_text('{"model_type": "stt"}')
    cfg = {"type": "lut", "lut": {"possible_values": ["1.0", "1.5"]}}
    (folder / "tts.json").write_text(
        json.dumps({"model_type": "tts", "dep_q": 8, "conditioners": {"cfg": cfg}})
    )
    (folder / "voices").mkdir()
    (folder / "voices" / "me.wav.1e68beda@240.safetensors").touch()
    config.write_text(CONFIG + PY_MODULE + line + "\n")
    assert list(codes(config).values()) == ([code] if code else [])


def test_the_tiny_speaking_model_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own server's config has nothing to say, on a card of any age but for the dtype of
    moshi-server's script.
    """
    pytest.importorskip("torch", reason="the worker extra is not installed")
    from dsmops.worker.tiny.tts import write_tiny_tts

    path = write_tiny_tts(tmp_path).server_config
    monkeypatch.chdir(tmp_path)
    report = lint_config(
        read_config(path),
        device=find_device(["t4"], None),
        server_version=ServerVersion(0, 6, 4),
        addr="127.0.0.1",
    )
    assert not report.has_errors, report.findings
    assert "python-bf16" in {finding.code for finding in report.findings}


def test_one_file_for_everything_is_wrong_for_each_in_its_own_way(config: Path) -> None:
    """Every key says what it wanted of the file."""
    config.write_text(CONFIG.replace(MIMI_FILE, WEIGHTS_FILE).replace(TOKENIZER_FILE, WEIGHTS_FILE))
    assert codes(config) == {
        "audio_tokenizer_file": "swapped-files",
        "text_tokenizer_file": "not-a-tokenizer",
    }


def test_files_of_a_script_of_the_operators_own_are_not_judged(config: Path) -> None:
    """The embedded script opens these keys as files; what another one makes of them is unknown."""
    (config.parent / "mine.py").touch()
    table = PY_MODULE + 'tokenizer = "absent.model"\n'
    config.write_text(CONFIG + table)
    assert codes(config) == {"modules.tts.py.tokenizer": "file-missing"}
    config.write_text(CONFIG + table.replace("batch_size", 'script = "mine.py"\nbatch_size'))
    assert codes(config) == {}


def test_keys_that_the_server_ignores_are_not_looked_up(config: Path) -> None:
    """Files named where no server reads them are misplaced, and nothing more."""
    ignored = """speaker_tokenizer_file = "absent.safetensors"
voices = { alice = "absent.safetensors" }
py = { mimi_weight = "absent.safetensors", voices = ["hf://kyutai"] }
"""
    config.write_text(
        CONFIG.replace('dtype_override = "f16"\n', 'dtype_override = "f16"\n' + ignored)
    )
    assert codes(config) == dict.fromkeys(
        ("speaker_tokenizer_file", "voices", "py"), "misplaced-key"
    )


@pytest.mark.parametrize("value", ["", "nul\\u0000byte", "x" * 5000])
def test_a_name_that_can_be_no_file_is_missing(config: Path, value: str) -> None:
    """Names that the system itself refuses are reported, not raised."""
    config.write_text(CONFIG.replace(WEIGHTS_FILE, value))
    assert codes(config) == {"lm_model_file": "file-missing"}


def test_the_environment_is_expanded_as_the_server_does(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$NAME finds the file; an unset one is distinguished from a missing file."""
    monkeypatch.setenv("MODELS", str(config.parent))
    config.write_text(CONFIG.replace(WEIGHTS_FILE, f"$MODELS/{WEIGHTS_FILE}"))
    assert codes(config) == {}
    monkeypatch.delenv("MODELS")
    found = (
        check_files([config], server_version=ServerVersion(0, 6, 4), addr="127.0.0.1")
        .files[0]
        .findings
    )
    assert [finding.code for finding in found] == ["file-missing", "unset-variable"]


def test_files_of_the_hub_are_read_from_the_cache_and_never_fetched(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cached is looked into; what is not is noted; no connection is tried."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    config.write_text(CONFIG.replace(WEIGHTS_FILE, "hf://org/repo/folder/lm@1.safetensors"))
    assert codes(config) == {"lm_model_file": "not-checked"}
    repo = Path(os.environ["HF_HOME"]) / "hub" / "models--org--repo"
    cached = repo / "snapshots" / ("0" * 40) / "folder" / "lm@1.safetensors"
    cached.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    write_zeros(cached, TINY.tensors(), "F16")
    assert codes(config) == {}
    write_zeros(cached, MIMI_TENSOR_PROBES, "F32")
    assert codes(config) == {"lm_model_file": "swapped-files"}


def test_a_name_that_the_server_cannot_fetch_is_one_error(config: Path) -> None:
    """A revision in the name is wrong for the server, though dsmops itself takes it elsewhere."""
    config.write_text(CONFIG.replace(WEIGHTS_FILE, "hf://org/repo@v1/lm.safetensors"))
    assert codes(config) == {"lm_model_file": "bad-source"}


def test_counts_follow_the_severities(config: Path) -> None:
    """Sums over all files, and what clean means with and without strict."""
    other = config.with_name("other.toml")
    other.write_text(CONFIG.replace('log_dir = "logs"', 'log_dir = "~/logs"'))
    check = check_files([config, other])
    assert [checked.path for checked in check.files] == [str(config), str(other)]
    assert (check.errors, check.warnings, check.notes) == (0, 1, 4)
    assert check.is_clean(strict=False)
    assert not check.is_clean(strict=True)
    other.write_text("a = 1\n")
    assert not check_files([other]).is_clean(strict=False)


def test_one_unreadable_file_stops_the_check(config: Path) -> None:
    """A file that is not TOML is an error of its own kind, not a finding."""
    bad = config.with_name("bad.toml")
    bad.write_text("a = \n")
    with pytest.raises(ConfigError, match=r"bad\.toml:1:5"):
        check_files([config, bad])
    with pytest.raises(InputError):
        check_files([config.parent])


def test_a_config_that_is_no_file_can_be_checked(config: Path) -> None:
    """Text that was only rendered is judged like a file."""
    report = lint_config(
        parse_config(CONFIG, path="rendered.toml"),
        server_version=ServerVersion(0, 6, 3),
        addr="127.0.0.1",
    )
    assert [finding.code for finding in report.findings] == ["override-too-new"]
