"""The user's file and variables: what comes first, and what a wrong line says."""

from pathlib import Path

import pytest

from dsmops import user_settings
from dsmops.errors import DsmopsError
from tests.support.cli import dsmops

PAGE = Path(__file__).resolve().parents[1] / "runbooks" / "settings.md"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, which other users cannot read."""
    path = tmp_path / "config" / "dsmops" / "config.toml"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(user_settings, "_taken", {})
    return path


def test_option_then_variable_then_file_then_default(file: Path, tmp_path: Path) -> None:
    """`pull-logs` says in its error which bucket it has asked for."""
    pull = ("pull-logs", "--list")
    assert dsmops(*pull).code == 2
    for name in ("file", "variable", "option"):
        (tmp_path / name).mkdir()
    file.write_text(f'bucket = "file:{tmp_path}/file"\n')
    variable = {"DSMOPS_BUCKET": f"file:{tmp_path}/variable"}
    option = ("--bucket", f"file:{tmp_path}/option")
    for name, run in {
        "file": dsmops(*pull),
        "variable": dsmops(*pull, env=variable),
        "option": dsmops(*pull, *option, env=variable),
    }.items():
        assert run.stderr.startswith(f"error: nothing is published under file://{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('bucket = "a"\nregoin = "b"', 2, "'regoin' is not a setting"),
        ('\n\n[worker]\nport = "1"', 3, "'worker' is not a setting"),
        ('bucket = "a"\n\nregion = 5', 3, "region must be a text, not 5"),
        ("bucket = true", 1, "bucket must be a text, not True"),
        ('bucket = ""', 1, "bucket must be a text"),
        ('prefix = "x"\nbucket = my-logs', 2, "Invalid value"),
        ('bucket = "a"\nbucket = "b"', 2, "Cannot overwrite a value"),
        ('api_key = "a"\napi_key_file = "b"', 2, "exclude each other"),
        ('prefix = "x"\nbucket = "\udcff"', 2, "not UTF-8"),
    ],
)
def test_a_wrong_line_is_one_error(file: Path, text: str, line: int, said: str) -> None:
    """With the file, the line and what would be right."""
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DsmopsError) as caught:
        user_settings.read_settings_file()
    assert said in caught.value.message
    assert caught.value.message.startswith(f"{file}:{line}:")


def test_every_command_but_those_that_explain_ends_with_the_error(file: Path) -> None:
    """`doctor` makes it a finding; help works."""
    file.write_text("regoin = 1")
    run = dsmops("plan", "--simulate", "t4")
    assert (run.code, run.stdout) == (3, "")
    assert run.stderr == (
        f"error: {file}:1: 'regoin' is not a setting\nhint: Did you mean region?\n"
    )
    assert dsmops("--help").code == dsmops("runbook", "settings").code == 0
    areas = {
        area["name"]: area for area in dsmops("doctor", "--offline", "--json").document["areas"]
    }
    (finding,) = areas["settings"]["findings"]
    assert (finding["name"], finding["fix"]) == ("settings-unusable", "Did you mean region?")


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(file: Path, tmp_path: Path, mode: int) -> None:
    """In the file itself, and in a file that it names."""
    file.write_text('api_key = "open-sesame"')
    file.chmod(mode)
    with pytest.raises(DsmopsError, match="other users can read the API key"):
        user_settings.read_settings_file()
    key = tmp_path / "key"
    key.write_text("open-sesame\n")
    key.chmod(mode)
    with pytest.raises(DsmopsError, match="other users can read the API key"):
        user_settings.apply({user_settings.API_KEY_FILE: str(key)})
    key.chmod(0o600)
    environ = {user_settings.API_KEY_FILE: str(key)}
    file.chmod(0o600)
    user_settings.apply(environ)
    assert environ[user_settings.API_KEY] == "open-sesame"


def test_doctor_shows_where_values_come_from_and_no_key(file: Path) -> None:
    """File with line, or variable; the key is set, and not shown."""
    file.write_text('bucket = "my-logs"\nregion = "eu-west-3"\napi_key = "open-sesame"\n')
    run = dsmops("doctor", "--offline", "--json", env={"DSMOPS_REGION": "us-east-1"})
    area = next(area for area in run.document["areas"] if area["name"] == "settings")
    assert area["findings"][0]["evidence"] == [
        "bucket = my-logs (line 1)",
        "region = us-east-1 (DSMOPS_REGION)",
        "api_key is set (line 3)",
    ]
    assert str(file) in area["findings"][0]["cause"]
    assert "open-sesame" not in run.stdout + run.stderr


def test_a_file_that_is_named_must_exist(tmp_path: Path) -> None:
    """`DSMOPS_CONFIG` is meant; the usual place may be empty."""
    run = dsmops("plan", "--simulate", "t4", env={"DSMOPS_CONFIG": str(tmp_path / "none.toml")})
    assert run.code == 3
    assert "none.toml, which does not exist" in run.stderr


def test_folders_move(file: Path, tmp_path: Path) -> None:
    """Downloads and prepared models."""
    file.write_text(f'cache = "{tmp_path}/hub"\nassets = "{tmp_path}/prepared"\n')
    text = dsmops("doctor", "--offline", "--json").stdout
    assert f"{tmp_path}/hub" in text
    assert f"{tmp_path}/prepared" in text


def test_a_model_of_the_settings_does_not_disturb_a_server() -> None:
    """It is for this machine; only a typed one contradicts `--url`."""
    url = ("transcribe", "--url", "ws://127.0.0.1:9", __file__)
    model = {"DSMOPS_STT_MODEL": "tiny"}
    assert "the server decides" not in dsmops(*url, env=model).stderr
    assert "the server decides" in dsmops(*url, "--model", "tiny", env=model).stderr


def test_the_page_lists_every_key() -> None:
    """With its variable."""
    page = PAGE.read_text(encoding="utf-8")
    for key, name in user_settings.KEYS.items():
        assert f"| `{key}` | `{name}` |" in page
