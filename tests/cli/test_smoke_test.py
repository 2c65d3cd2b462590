"""`dsmops smoke-test` as an operator and a CI job type it."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dsmops.audio import write
from dsmops.audio.signals import speech_like
from dsmops.operations.smoke import CHECKS
from dsmops.operations.smoke.process import free_port
from dsmops.worker.tiny.stt import API_KEY, TinyStt, write_tiny_stt
from tests.support.cli import Run, dsmops
from tests.support.workers import WorkerProcess


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStt:
    return write_tiny_stt(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def worker(tiny: TinyStt) -> Iterator[WorkerProcess]:
    with WorkerProcess(tiny.server_config.parent, tiny.server_config) as running:
        yield running


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that is shorter than the built-in one, in which the tiny model finds words."""
    path = tmp_path_factory.mktemp("audio") / "short.wav"
    write(path, [speech_like(0.6)])
    return path


def statuses(run: Run) -> dict[str, str]:
    return {check["name"]: check["status"] for check in run.document["checks"]}


@pytest.mark.slow
def test_the_simulation_tells_the_whole_story(tmp_path: Path) -> None:
    """A document, a JUnit file, the models in their folder, a raw log that can be formatted."""
    run = dsmops(
        "smoke-test",
        "--simulate-success",
        "--folder",
        "made",
        "--junit",
        "smoke.xml",
        "--json",
        cwd=tmp_path,
        env={"DSMOPS_API_KEY": "key-of-another-server"},
    )
    assert run.code == 0, run.stderr
    document = run.document
    assert document["schema"] == "dsmops.smoke-test/1"
    assert document["passed"]
    assert document["simulated"] == "Tesla T4"
    assert set(statuses(run)) == set(CHECKS) - {"server-binary"}
    assert all(check["evidence"] and check["runbook"] for check in document["checks"])
    assert document["modules"][0]["words"]
    assert document["modules"][0]["step_times"]["count"] > 50
    suite = ElementTree.parse(tmp_path / "smoke.xml").getroot()
    assert suite.get("tests") == str(len(document["checks"]))
    assert [case.get("name") for case in suite.iter("testcase")] == [
        check["name"] for check in document["checks"]
    ]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    converted = (tmp_path / "made" / "assets" / "fp16").glob("*.fp16.safetensors")
    assert len(list(converted)) == len(document["modules"]) == 2
    friendly = dsmops("format-log", document["raw_log"], "-o", "-", cwd=tmp_path)
    assert "[INFO] [moshi_server] src/main.rs" in friendly.stdout


@pytest.mark.slow
def test_a_running_server_is_left_as_it_was(worker: WorkerProcess, short: Path) -> None:
    """Only harmless checks, unless more is asked for; it still serves afterwards."""
    for more, intrusive in ((), "skipped"), (("--intrusive",), "passed"):
        args = ("--url", worker.url, "--api-key", API_KEY, "--json", "--audio", short)
        run = dsmops("smoke-test", *args, *more)
        assert run.code == 0, run.stdout
        found = statuses(run)
        assert (found["slots-full"], found["slot-return"]) == (intrusive, intrusive)
        assert {
            "ready",
            "step",
            "marker",
            "closing",
            "clip",
            "step-time",
            "finite-numbers",
            "wrong-key",
        } <= {name for name, status in found.items() if status == "passed"}
        assert run.document["raw_log"] is None
        assert run.document["server"].startswith("dsmops ")
    assert worker.process.poll() is None


@pytest.mark.slow
def test_a_wrong_key_is_told(worker: WorkerProcess) -> None:
    """As what it is, not as a dead server."""
    run = dsmops("smoke-test", "--url", worker.url, "--api-key", "nobody")
    assert run.code == 1
    assert "the server refused the key" in run.stdout
    assert "Failed at `ready`" in run.stdout


def test_nobody_listening_is_a_failed_check() -> None:
    """Exit 1, with what to do; the rest could not run."""
    run = dsmops("smoke-test", "--url", f"127.0.0.1:{free_port()}", "--json")
    assert run.code == 1
    assert run.document["failed"] == ["listening"]
    assert set(statuses(run).values()) == {"failed", "blocked"}


@pytest.mark.slow
def test_a_terminal_shows_what_a_long_check_does() -> None:
    """Here one that waits for a server which accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own, inside = pty.openpty()
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "dsmops", "smoke-test", "--url", f"127.0.0.1:{port}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=inside) as process:
            os.close(inside)
            shown = b""
            while b"listening: does it" not in shown:
                shown += os.read(own, 65536)
            process.terminate()
            os.close(own)


@pytest.mark.slow
def test_a_binary_is_identified_and_tested(tiny: TinyStt, short: Path, tmp_path: Path) -> None:
    """Here a script that has moshi-server's command line; its name may be looked up on PATH."""
    binary = tmp_path / "moshi-server"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m dsmops "$@"\n')
    binary.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    args = (
        "--config",
        tiny.server_config,
        "--backend",
        "moshi-server",
        "--extra-arg",
        "--cpu",
        "--audio",
        short,
        "--json",
    )
    run = dsmops("smoke-test", *args, cwd=tiny.server_config.parent, env={"PATH": path})
    assert run.code == 0, run.stdout
    assert statuses(run)["server-binary"] == "passed"
    assert run.document["backend"] == "moshi-server"
    assert run.document["server"].startswith("dsmops moshi-server")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (
            ["--url", "ws://x", "--simulate-success"],
            2,
            "--url and --simulate-success exclude each other",
        ),
        (["--url", "ws://x", "--cpu"], 2, "apply to a server that this command starts"),
        (["--backend", "candle"], 2, "'candle' is unknown"),
        (["--simulate-success", "--moshi-bin", "x"], 2, "the embedded worker is tested"),
        (["--timeout", "1"], 2, "--timeout"),
        (["--timeout", "nan"], 2, "--timeout"),
        (["--config", "a.toml", "--folder", "x"], 2, "--folder"),
        (["--config", "a.toml", "--junit", "a.toml"], 2, "--junit is the config itself"),
        (["--simulate-success", "--folder", "."], 3, ". is not empty"),
        (["--config", "nothing.toml"], 3, "nothing.toml"),
        ([], 2, "config-stt-en_fr-lowram-sm75.toml does not exist"),
        (["--url", "ftp://x"], 3, "is not a server address"),
        (["--simulate-success", "--junit", "a.toml/smoke.xml"], 3, "a.toml"),
        (["--simulate-success", "--audio", "nothing.wav"], 3, "nothing.wav"),
        (
            ["--config", "a.toml", "--moshi-bin", "no-such-program"],
            3,
            "no-such-program is not a program here",
        ),
    ],
)
def test_mistyped_commands_are_told(tmp_path: Path, args: list[str], code: int, words: str) -> None:
    """One clear error with the exit code of its kind; nothing is started or written."""
    (tmp_path / "a.toml").write_text("")
    run = dsmops("smoke-test", *args, cwd=tmp_path)
    assert run.code == code, run.stderr
    assert words in run.stderr.replace("\n", " ")
    assert "Traceback" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.toml"]


@pytest.mark.parametrize("way", [["--simulate-success"], ["--config", "a.toml"]])
def test_logs_that_cannot_be_kept_are_no_fault_of_the_server(
    tmp_path: Path, way: list[str]
) -> None:
    """Told before any check, with the exit code of what is wrong; nothing is started."""
    (tmp_path / "a.toml").write_text("")
    (tmp_path / "logs").write_text("")
    run = dsmops("smoke-test", *way, cwd=tmp_path)
    assert (run.code, run.stdout) == (3, "")
    assert "logs/moshi-logs/raw" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", ["aiohttp", "msgspec", "torch"])
@pytest.mark.parametrize("way", [["--simulate-success"], ["--url", "ws://127.0.0.1:1"]])
def test_without_the_worker_extra_it_says_what_to_install(
    tmp_path: Path, package: str, way: list[str]
) -> None:
    """Exit 4 and the command, as a document where one was asked for."""
    hidden = f"import sys; sys.modules[{package!r}] = None; "
    code = f"{hidden}from dsmops.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "smoke-test", *way, "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stderr)["error"]
    assert package in error["message"]
    assert "dsmops[worker]" in error["hint"]


def test_something_that_is_no_speech_server_is_not_blamed_for_its_keys(tmp_path: Path) -> None:
    """No stream opens there with any key: that fails, and no check of keys."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run = dsmops(
            "smoke-test", "--url", f"127.0.0.1:{server.server_port}", "--json", cwd=tmp_path
        )
        server.shutdown()
    assert run.code == 1
    assert run.document["failed"] == ["ready"]
    assert statuses(run)["wrong-key"] == "skipped"


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT, signal.SIGKILL],
)
def test_the_server_dies_with_its_test(tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends the test: asked to, or killed outright."""
    if number is signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux lets a child die with its parent")
    (tmp_path / "smoke.xml").write_text("an older verdict")
    test = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dsmops",
            "smoke-test",
            "--simulate-success",
            "--junit",
            "smoke.xml",
        ],
        cwd=tmp_path,
        # What is killed outright tidies up nothing.
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(
            lambda: any(
                "listening on" in log.read_text() for log in tmp_path.glob("logs/moshi-logs/raw/*")
            )
        )
        servers = children(test.pid)
        assert servers
        test.send_signal(number)
        output, errors = test.communicate(timeout=30)
    finally:
        test.kill()
        test.communicate()
    wait_until(lambda: not any(is_alive(pid) for pid in servers))
    assert test.returncode == (-number if number is signal.SIGKILL else 128 + number)
    assert b"Traceback" not in errors
    assert output == b""
    assert (b"stopped at `" in errors) == (number is signal.SIGINT)
    assert not (tmp_path / "smoke.xml").exists()


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
