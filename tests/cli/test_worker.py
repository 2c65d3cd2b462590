"""`dsmops worker` as an operator types it."""

import json
import re
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dsmops.worker.tiny.stt import API_KEY, TinyStt, write_tiny_stt
from tests.support.cli import dsmops
from tests.support.processes import python
from tests.support.stt_client import FRAME, SttClient
from tests.support.workers import WorkerProcess


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStt:
    return write_tiny_stt(tmp_path_factory.mktemp("tiny"))


def edited(tiny: TinyStt, name: str, *changes: tuple[str, str]) -> Path:
    """Return a copy of the config beside it, with texts replaced."""
    text = tiny.server_config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tiny.server_config.parent / name
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_run_leaves_a_log_that_format_log_reads(tiny: TinyStt) -> None:
    """Named by instance and day, every line an event of known level and target.

    The key is not in it; nothing in it wants redaction.
    """
    folder = tiny.server_config.parent
    with WorkerProcess(folder, tiny.server_config) as running:
        with SttClient(running.url, None, path=f"/api/asr-streaming?auth_id={API_KEY}") as client:
            client.send(b"nonsense")
        running.process.terminate()
        assert running.end() == 0
    logs = [
        path
        for path in (folder / "logs").iterdir()
        if re.fullmatch(r"log\.tiny\.\d{4}-\d\d-\d\d", path.name)
    ]
    assert len(logs) == 1
    text = logs[0].read_text()
    assert API_KEY not in text
    run = dsmops("format-log", logs[0], "-o", "-", "--jsonl", cwd=folder)
    events = [json.loads(line) for line in run.stdout.splitlines()]
    assert {event["level"] for event in events} == {"INFO", "ERROR"}
    assert {event["target"] for event in events} == {
        "moshi_server",
        "moshi_server::batched_asr",
        "moshi_server::utils",
    }
    assert all(event["file"].endswith(".rs") for event in events)
    assert any(event["message"].startswith("listening on http://127.0.0.1:") for event in events)
    assert any(event["continuation"] for event in events)
    assert len(events) == len(text.splitlines()) - sum(
        len(event["continuation"]) for event in events
    )


def started(tiny: TinyStt, config: Path) -> subprocess.Popen[str]:
    """Start a worker, and do not wait for it."""
    words = ["worker", "--config", str(config), "--cpu", "--port", "0", "--json"]
    return subprocess.Popen(
        [*python(), "-m", "dsmops", *words],
        cwd=tiny.server_config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sigterm_while_a_model_is_downloaded_is_no_failure(
    tiny: TinyStt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for the hub: exit code 0, and nothing on stdout."""
    config = edited(
        tiny, "from-hub.toml", (tiny.files.lm.name, "hf://kyutai/nowhere/model.safetensors")
    )
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(60)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        with started(tiny, config) as process:
            asking, _ = hub.accept()
            with asking:
                process.send_signal(signal.SIGTERM)
                out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_model_loads_is_no_failure(tiny: TinyStt, number: signal.Signals) -> None:
    """The worker ends with 0 and never listens."""
    with started(tiny, tiny.server_config) as process:
        assert process.stderr is not None
        while "starting worker" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        out, log = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "listening" not in log


def test_a_taken_port_is_known_before_anything_is_loaded(tiny: TinyStt) -> None:
    """Exit 5, and who to ask."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = dsmops(
            "worker",
            "--config",
            tiny.server_config,
            "--cpu",
            "--port",
            str(port),
            cwd=tiny.server_config.parent,
        )
    assert run.code == 5
    assert f"error: port {port} of 127.0.0.1 is in use\nhint: `ss -ltnp" in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--addr", "somewhere"], 3, "'somewhere' is not an IP address"),
        (["--log", "loud"], 2, "'loud' is not a log level"),
        (["--port", "70000"], 2, "70000"),
        (["--jwt-secret", "short"], 3, "a secret of 5 bytes can be guessed"),
        (["--jwt-keys", "no-keys.json"], 3, "no-keys.json"),
        (["--jwt-keys", "config.json"], 3, "config.json cannot check tokens: key 1 is not for"),
        (["--jwt-keys", "ftp://a.example/jwks"], 3, "'ftp://a.example/jwks' is not an address"),
        (["--jwt-audience", "me"], 3, "need keys that check tokens"),
        (["--jwt-secret", "a" * 16 + "0123456789abcdef", "--jwt-leeway", "301"], 2, "301"),
    ],
)
def test_mistyped_options_are_told(tiny: TinyStt, args: list[str], code: int, words: str) -> None:
    """With the exit code of their kind."""
    run = dsmops(
        "worker", "--config", tiny.server_config, "--cpu", *args, cwd=tiny.server_config.parent
    )
    assert run.code == code
    assert words in run.stderr
    assert "listens on ::1" not in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ([('authorized_ids = ["', 'authorised_ids = ["')], 3, "authorized_ids"),
        ([('"model.safetensors"', '"nothing.safetensors"')], 3, "nothing.safetensors"),
        ([('type = "BatchedAsr"', 'type = "PyPost"')], 3, "is of type PyPost"),
        ([("batch_size = 4", "batch_size = 0")], 3, "batch"),
        ([('log_dir = "./logs/"', 'log_dir = "./config.json/logs"')], 3, "config.json"),
        ([('"model.safetensors"', '"config.json"')], 3, "config.json"),
    ],
    ids=["no keys", "no file", "another module", "no slots", "no log folder", "no checkpoint"],
)
def test_a_config_that_cannot_be_served_is_refused(
    tiny: TinyStt, changes: list[tuple[str, str]], code: int, words: str
) -> None:
    """At once, with what is wrong and where to read more."""
    config = edited(tiny, "edited.toml", *changes)
    run = dsmops("worker", "--config", config, "--cpu", "--port", "0", cwd=config.parent)
    assert run.code == code, run.stderr
    assert words in run.stderr
    assert "hint:" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_falling_back_to_the_cpu_is_warned_of_or_refused(tiny: TinyStt) -> None:
    """The log says why, and what to do; --require-gpu ends with exit code 4."""
    folder = tiny.server_config.parent
    with WorkerProcess(folder, tiny.server_config, cpu=False) as running:
        running.process.terminate()
        assert running.end() == 0
        (warning,) = [line for line in running.errors.splitlines() if " WARN " in line]
    assert "computing on the CPU, which is slow: `dsmops check-gpu` shows" in warning
    assert 'reason="torch finds no CUDA device that it can use"' in warning

    command = ("worker", "--config", tiny.server_config, "--require-gpu", "--port", "0")
    refused = dsmops(*command, cwd=folder, env={"CUDA_VISIBLE_DEVICES": ""})
    assert refused.code == 4
    assert "error: torch finds no CUDA device that it can use" in refused.stderr
    assert "hint: `dsmops check-gpu` shows why" in refused.stderr
    assert "listening on" not in refused.stdout


@pytest.mark.slow
def test_two_modules_are_served_side_by_side(tiny: TinyStt) -> None:
    """Each on its path, batched and not."""
    text = tiny.server_config.read_text()
    config = tiny.server_config.parent / "two.toml"
    second = (
        text[text.index("[modules.asr]") :]
        .replace("[modules.asr", "[modules.one")
        .replace("/api/asr-streaming", "/api/one")
    )
    config.write_text(
        text + "\n" + second.replace('"BatchedAsr"', '"Asr"').replace("batch_size = 4\n", "")
    )
    with WorkerProcess(config.parent, config, "--silent") as running:
        with SttClient(running.url, API_KEY) as client:
            assert client.hello == {"type": "Ready"}
        with SttClient(running.url, API_KEY, path="/api/one", ready=False) as client:
            client.send({"type": "Marker", "id": 3})
            client.audio(np.zeros(6 * FRAME, np.float32))
            assert client.until("Marker")[-1] == {"type": "Marker", "id": 3}
        running.process.terminate()
        assert running.end() == 0
        assert running.errors == ""
