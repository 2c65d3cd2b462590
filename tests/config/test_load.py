"""Reading configs: where every key stands, and what cannot be read."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.config.load import parse_config, read_config
from dsmops.errors import ConfigError, InputError
from dsmops.shipped import shipped_folder
from tests.support.toml import documents


@pytest.mark.slow
@given(documents())
def test_every_key_is_found_on_its_line(document: tuple[str, dict[tuple[str, ...], int]]) -> None:
    """The line of a key is where it was written, in any layout: headers, dotted keys, arrays over
    lines, comments, both line endings.
    """
    text, written_at = document
    config = parse_config(text)
    assert {where: config.line(where) for where in written_at} == written_at


def test_an_absent_key_stands_at_its_table() -> None:
    """What is missing is reported where it would have to be added."""
    config = parse_config("a = 1\n\n[modules.asr]\ntype = 'Py'\n")
    assert config.line(("modules", "asr", "path")) == 3
    assert config.line(("log_dir",)) == 1


@pytest.mark.parametrize(
    "path", sorted(shipped_folder("configs").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_ready_configs_have_all_keys_in_place(path: Path) -> None:
    """Every key of a real file is on a line that begins with it."""
    config = read_config(path)
    lines = config.text.splitlines()
    for where, line in config.lines.items():
        assert lines[line - 1].lstrip().startswith((where[-1], "["))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a = 1\nb = \n", "x.toml:2:5"),
        ("a = 1\na = 2\n", "x.toml:2:6"),
        ("a = 'x\n", "x.toml:1"),
        ("[a]\n[a]\n", "x.toml:2:3"),
        ("a = 1\rb = 2", "x.toml:1:6"),
        ("\x00", "x.toml:1:1"),
        ("a = [1,", "x.toml:1"),
        ("a = " + "[" * 5000, "x.toml"),
        ("a = 1\nb = 9223372036854775808", "x.toml:2"),
        ("a = 1\n[b]\nc = [1,\n -9223372036854775809]", "x.toml:3"),
        ("a = { b = 0xffffffffffffffff }", "x.toml:1"),
        ("a = " + "9" * 5000, "x.toml"),
        ("a = 0x" + "f" * 9000, "x.toml:1"),
    ],
)
def test_what_is_no_toml_is_an_error_with_its_place(text: str, where: str) -> None:
    """Line and column of a syntax error are in the message, as editors count them."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, path="x.toml")
    assert str(caught.value).startswith(f"{where}: not ")
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["a = { x = 1,\n y = 2 }\n", "a = { x = 1, }\n", 'a = "\\e"\n', "a = 07:32\n"]
)
def test_syntax_newer_than_the_server_is_refused(text: str) -> None:
    """TOML 1.1 is not accepted, for the server's parser would not start with it."""
    with pytest.raises(ConfigError):
        parse_config(text)


def test_the_largest_integers_are_read() -> None:
    """Exactly what 64 bits hold, at both ends."""
    assert parse_config("a = 9223372036854775807\nb = -9223372036854775808").values == {
        "a": 2**63 - 1,
        "b": -(2**63),
    }


def test_a_number_that_is_too_large_is_not_repeated() -> None:
    """It may be an API key without its quotes."""
    with pytest.raises(ConfigError) as caught:
        parse_config("authorized_ids = [98765432109876543210]")
    assert "9876" not in str(caught.value) + caught.value.hint


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path) -> None:
    """Neither is waited for: no process may ever write into the pipe, and the device has no end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(InputError, match="pipe or a device") as caught:
            read_config(path)
        assert str(path) in caught.value.message
        assert caught.value.hint


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    """A file saved by a Windows editor reads as any other."""
    path = tmp_path / "bom.toml"
    path.write_bytes("a = 1\r\nb = 2\r\n".encode("utf-8-sig"))
    assert read_config(path).values == {"a": 1, "b": 2}


def test_bytes_that_are_no_utf8_are_an_error_with_their_place(tmp_path: Path) -> None:
    """The first wrong byte is named, with its line and column."""
    path = tmp_path / "latin1.toml"
    path.write_bytes(b"a = 1\nb = 'caf\xe9'\n")
    with pytest.raises(ConfigError, match="0xe9") as caught:
        read_config(path)
    assert (caught.value.line, caught.value.col) == (2, 9)


def test_a_checkpoint_named_by_mistake_is_not_read_whole(tmp_path: Path) -> None:
    """A huge file is refused at once, with a hint at the mix-up."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 10 << 30)
    with pytest.raises(ConfigError, match="1 MiB") as caught:
        read_config(path)
    assert ".toml" in caught.value.hint


def test_a_folder_or_nothing_in_place_of_a_config(tmp_path: Path) -> None:
    """Both are errors about what was named, not about its content."""
    for path in (tmp_path, tmp_path / "absent.toml", tmp_path / "absent" / "x.toml"):
        with pytest.raises(InputError) as caught:
            read_config(path)
        assert str(path) in caught.value.message
        assert caught.value.hint


@given(st.binary(max_size=200))
def test_any_bytes_give_a_config_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """No content ends in anything else."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        read_config(path)


@given(st.text(alphabet="ab.=[]{}\"'#\n\r\t 1,\\é", max_size=60))
def test_any_text_gives_a_config_or_an_error(text: str) -> None:
    """Nor does any text that looks a little like TOML."""
    with contextlib.suppress(ConfigError):
        parse_config(text)


@pytest.mark.parametrize(
    "value",
    [
        r'"C:\models\stt.safetensors"',
        r'"C:\Users\me\stt.safetensors"',
        r'"C:\xmodels"',
        r'"D:\models\"',
        r'"\\server\share"',
    ],
)
def test_a_windows_path_in_double_quotes_gets_the_advice_of_single_ones(value: str) -> None:
    """Whatever its backslashes did to the syntax, the hint says how to write it; in single quotes
    it is read as typed.
    """
    with pytest.raises(ConfigError) as error:
        parse_config(f"a = 1\nlog_dir = {value}\nb = 2\n")
    assert "single quotes" in (error.value.hint or "")
    path = value.strip('"')
    assert parse_config(f"log_dir = '{path}'\n").values["log_dir"] == path
