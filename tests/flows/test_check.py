"""`check-config` against real files: local ones, ones in the hub cache, damaged ones."""

import os
import socket
from pathlib import Path

import pytest

from dsmops.config.load import parse_config
from dsmops.config.schema import ServerVersion
from dsmops.errors import ConfigError, InputError
from dsmops.flows.check import check_files, lint_config
from dsmops.models import MIMI_TENSOR_PROBES
from tests.support.tiny import CONFIG, MIMI_FILE, TINY, TOKENIZER_FILE, WEIGHTS_FILE, tokenizer, write_tiny_server, write_zeros


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete server in its own folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_tiny_server(tmp_path)


def codes(path: Path) -> dict[str, str]:
    """Key → code of what is found, with version and address given."""
    (checked,) = check_files([path], server_version=ServerVersion(0, 6, 4), addr="127.0.0.1").files
    return {finding.where.removeprefix("modules.asr."): finding.code for finding in checked.findings}


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
def test_each_file_is_looked_into(config: Path, name: str, content: bytes | None, key: str, code: str) -> None:
    """Absent, empty, damaged and mistaken files are told apart."""
    path = config.parent / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert codes(config) == {key: code}


def test_a_truncated_checkpoint_is_seen(config: Path) -> None:
    """A download that broke off has a good header and too little data; the server would fail, and so does the check."""
    path = config.parent / WEIGHTS_FILE
    os.truncate(path, path.stat().st_size - 1)
    assert codes(config) == {"lm_model_file": "not-safetensors"}


def test_a_folder_in_place_of_a_file(config: Path) -> None:
    """A folder of shards is no file, and the server takes files only."""
    (config.parent / WEIGHTS_FILE).unlink()
    (config.parent / WEIGHTS_FILE).mkdir()
    assert codes(config) == {"lm_model_file": "not-safetensors"}


@pytest.mark.parametrize("value", ["", "nul\\u0000byte", "x" * 5000])
def test_a_name_that_can_be_no_file_is_missing(config: Path, value: str) -> None:
    """Names that the system itself refuses are reported, not raised."""
    config.write_text(CONFIG.replace(WEIGHTS_FILE, value))
    assert codes(config) == {"lm_model_file": "file-missing"}


def test_the_environment_is_expanded_as_the_server_does(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$NAME finds the file; an unset one is told apart from a missing file."""
    monkeypatch.setenv("MODELS", str(config.parent))
    config.write_text(CONFIG.replace(WEIGHTS_FILE, f"$MODELS/{WEIGHTS_FILE}"))
    assert codes(config) == {}
    monkeypatch.delenv("MODELS")
    found = check_files([config], server_version=ServerVersion(0, 6, 4), addr="127.0.0.1").files[0].findings
    assert [finding.code for finding in found] == ["file-missing", "unset-variable"]


def test_files_of_the_hub_are_read_from_the_cache_and_never_fetched(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A file that is no TOML is an error of its own kind, not a finding."""
    bad = config.with_name("bad.toml")
    bad.write_text("a = \n")
    with pytest.raises(ConfigError, match=r"bad\.toml:1:5"):
        check_files([config, bad])
    with pytest.raises(InputError):
        check_files([config.parent])


def test_a_config_that_is_no_file_can_be_checked(config: Path) -> None:
    """Text that was only rendered is judged like a file."""
    report = lint_config(parse_config(CONFIG, path="rendered.toml"), server_version=ServerVersion(0, 6, 3), addr="127.0.0.1")
    assert [finding.code for finding in report.findings] == ["override-too-new"]
