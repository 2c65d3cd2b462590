"""A diagnosis finds what is the matter with real parts: recorded hosts, real files, a real hub and servers on loopback, real logs."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dsmops.config.lint import CODES
from dsmops.flows.doctor import NAMES, Diagnosis, Finding, Level, Scope, diagnose
from dsmops.flows.doctor.logs import _MOST_BYTES
from dsmops.gpu import GpuReport
from dsmops.gpu.torch_build import TorchBuild, TorchKernels
from dsmops.logs.failures import FAILURES
from dsmops.models import MODELS
from dsmops.shipped import shipped_folder
from tests.gpu.hosts import PlayedHost, host_names, load_host
from tests.support.binaries import write_machine_code, write_script, write_server
from tests.support.hub_server import HubServer, Repo
from tests.support.tiny import CONFIG, MIMI_FILE, WEIGHTS_FILE, write_tiny_server, write_tiny_weights

UPSTREAM = b"Kyutai moshi server"
STEP = b"2025-11-15T08:39:16.139607Z  INFO moshi_server::batched_asr: src/batched_asr.rs:290: 28.77ms step_idx=12 with_data=1\n"
START = b'2025-11-15T08:39:03.595811Z  INFO moshi_server: src/main.rs:475: build_info=BuildInfo { git_describe: "dc0b3d1" }\n'
DEAD = (
    b"2025-11-15T08:39:08.139607Z ERROR moshi_server::utils: src/utils.rs:197: "
    b'task failed name="model_loop" err=DriverError(CUDA_ERROR_NOT_FOUND, "named symbol not found")\n'
)
KEY = b'2025-11-15T08:39:16.139607Z  INFO moshi_server: src/main.rs:1: batched-asr ws query query=Query { auth_id: Some("0b4c-hidden") }\n'

Play = Callable[[str], GpuReport]


@pytest.fixture
def play(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return the report on a recorded host."""
    return lambda name: PlayedHost(load_host(name), tmp_path_factory.mktemp(name), monkeypatch).probe()


@pytest.fixture
def bare() -> GpuReport:
    """A machine without a card."""
    return GpuReport((), (), source=None)


@pytest.fixture
def scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scope:
    """An empty working directory, a free port, and nobody to ask."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Scope(folder=tmp_path, port=port, offline=True)


def found(diagnosis: Diagnosis) -> dict[str, Finding]:
    """The findings by name, the last of each."""
    return {each.name: each for area in diagnosis.areas for each in area.findings}


def test_an_empty_folder_without_a_card_is_no_error(scope: Scope, bare: GpuReport) -> None:
    """Nothing is wrong with a machine that has nothing yet, and the diagnosis says what it could not see."""
    diagnosis = diagnose(scope, bare)
    assert (diagnosis.errors, diagnosis.warnings) == (0, 0)
    assert {"config-none", "checkpoint-none", "server-none", "log-none", "hub-offline"} <= found(diagnosis).keys()
    assert len(diagnosis.not_seen) >= 5


def test_nothing_is_written(scope: Scope, bare: GpuReport) -> None:
    """Neither into the working directory nor into the home folder."""
    diagnose(scope, bare)
    assert list(scope.folder.rglob("*")) == []
    assert [path for path in Path.home().rglob("*") if path.is_file()] == []


# cards and torch


@pytest.mark.parametrize("name", host_names())
def test_every_recorded_host_is_diagnosed(name: str, scope: Scope, play: Play) -> None:
    """What its driver reports comes with a page; a machine without any card has no error for it."""
    report = play(name)
    cards = diagnose(scope, report).areas[0].findings
    assert {each.name for each in cards} <= NAMES
    assert len([each for each in cards if each.name == "gpu-ok"]) == len(report.visible)
    if not report.devices and not report.pci_cards and report.findings[0].code == "gpu.driver_missing":
        assert [(each.name, each.severity) for each in cards] == [("gpu-none", Level.NOTE)]
    elif not report.visible:
        assert Level.ERROR in {each.severity for each in cards} or cards[0].name in {"gpu-none", "gpu-container-without-gpu"}


def test_a_turing_card_needs_the_override(scope: Scope, play: Play) -> None:
    """A T4 in order is told what its configs must say, with the public report of what happens otherwise."""
    seen = found(diagnose(scope, play("t4_cloud")))["gpu-pre-ampere"]
    assert seen.upstream_issue == "kyutai-labs/moshi#355"
    assert 'dtype_override = "f16"' in seen.fix


def test_taken_memory_names_who_holds_it(scope: Scope, play: Play) -> None:
    """Memory beyond what a driver takes is somebody's."""
    report = play("two_l4")
    card = report.devices[0]
    holder = replace(card, device=replace(card.device, memory_free_bytes=2 << 30), processes=())
    seen = found(diagnose(scope, replace(report, devices=(holder,))))["gpu-memory-taken"]
    assert seen.severity is Level.WARNING
    assert seen.evidence == ("the driver does not list by whom",)


@pytest.mark.parametrize(
    ("kernels", "name"),
    [
        (TorchKernels.YES, "torch-ok"),
        (TorchKernels.NO, "torch-without-kernels"),
        (TorchKernels.NO_CUDA, "torch-without-cuda"),
        (TorchKernels.DRIVER_TOO_OLD, "torch-driver-old"),
        (TorchKernels.UNKNOWN, "torch-kernels-unknown"),
    ],
)
def test_torch_is_judged_for_the_card(kernels: TorchKernels, name: str, scope: Scope, play: Play) -> None:
    """The card that the worker takes decides; none of it keeps moshi-server from working, so none is an error."""
    report = play("t4_cloud")
    card = replace(report.devices[0], verdict=replace(report.devices[0].verdict, torch_kernels=kernels))
    diagnosis = diagnose(scope, replace(report, devices=(card,), torch=TorchBuild("2.11.0", "12.8", None)))
    assert name in found(diagnosis)
    assert diagnosis.errors == 0


def test_no_torch_is_a_note(scope: Scope, bare: GpuReport) -> None:
    """Moshi-server needs none."""
    assert found(diagnose(scope, bare))["torch-missing"].severity is Level.NOTE


# server


def server_names(scope: Scope, gpu: GpuReport, binary: Path) -> dict[str, Level]:
    diagnosis = diagnose(replace(scope, moshi_bin=str(binary)), gpu)
    area = next(area for area in diagnosis.areas if area.name == "server")
    return {each.name: each.severity for each in area.findings}


def test_servers_are_told_apart(scope: Scope, bare: GpuReport, tmp_path: Path) -> None:
    """Upstream is fine, a fork is noted, and what cannot serve is an error where it was named."""
    assert server_names(scope, bare, write_server(tmp_path / "upstream")) == {"server-ok": Level.OK}
    assert server_names(scope, bare, write_server(tmp_path / "fork", fork=True)) == {"server-fork": Level.NOTE, "server-ok": Level.OK}
    python = write_script(tmp_path / "pip", "from moshi.server import main\n", interpreter="/usr/bin/python3")
    assert server_names(scope, bare, python) == {"server-python": Level.ERROR}
    assert server_names(scope, bare, write_script(tmp_path / "other", "echo hello")) == {"server-unknown": Level.ERROR}
    assert server_names(scope, bare, tmp_path / "absent") == {"server-missing": Level.ERROR}
    assert server_names(scope, bare, tmp_path) == {"server-unreadable": Level.ERROR}


def test_a_missing_libpython_is_named_with_its_cure(scope: Scope, bare: GpuReport, tmp_path: Path) -> None:
    """The loader's words become a command that tells it where Python's library is."""
    said = "error while loading shared libraries: libpython3.12.so.1.0: cannot open shared object file"
    binary = write_script(tmp_path / "moshi-server", f"echo '{said}'; exit 127")
    seen = found(diagnose(replace(scope, moshi_bin=str(binary)), bare))["server-library-missing"]
    assert "libpython3.12.so.1.0" in seen.cause
    assert "LD_LIBRARY_PATH" in seen.fix


@pytest.mark.parametrize(
    ("host", "contents", "name", "level"),
    [
        ("t4_cloud", (b".target sm_75",), "server-ignores-override", Level.ERROR),
        ("two_l4", (b".target sm_89",), "server-ignores-override", Level.NOTE),
        ("t4_cloud", (b"dtype_override", b".target sm_80"), "server-built-for-newer", Level.ERROR),
        ("two_l4", (b"dtype_override", b".target sm_75"), "server-built-for-older", Level.WARNING),
        ("two_l4", (b"dtype_override", b"\n.version 8.7\n.target sm_89"), "server-toolkit-newer", Level.ERROR),
        ("two_l4", (b"dtype_override",), "server-without-cuda", Level.WARNING),
    ],
)
def test_kernels_are_compared_with_the_card(
    host: str, contents: tuple[bytes, ...], name: str, level: Level, scope: Scope, play: Play
) -> None:
    """A T4 has 7.5, an L4 8.9 and here a driver for CUDA 12.4; the PTX in the file tells what a server was built for."""
    gpu = play(host)
    names = server_names(scope, gpu, write_machine_code(scope.folder / "moshi-server", UPSTREAM, *contents))
    assert names.pop("server-not-starting") is Level.ERROR
    assert names == {name: level}


def test_a_server_that_was_only_found_is_no_error(scope: Scope, bare: GpuReport) -> None:
    """It may not be the one that serves; one that cargo built is named instead."""
    cargo = Path.home() / ".cargo" / "bin"
    cargo.mkdir(parents=True)
    write_script(cargo / "moshi-server", "from moshi.server import main\n", interpreter="/usr/bin/python3")
    diagnosis = diagnose(scope, bare)
    assert found(diagnosis)["server-python"].severity is Level.WARNING
    assert str(cargo / "moshi-server") in found(diagnosis)["server-python"].fix


# configs and checkpoints


def test_a_config_is_judged_for_this_card_and_server(scope: Scope, play: Play) -> None:
    """On a T4, a config without an override is an error with its line; with it, there is none."""
    (scope.folder / "configs").mkdir()
    config = write_tiny_server(scope.folder).rename(scope.folder / "configs" / "tiny.toml")
    report = play("t4_cloud")
    assert diagnose(scope, report).errors == 0
    config.write_text(CONFIG.replace('dtype_override = "f16"\n', ""))
    seen = found(diagnose(scope, report))["config-dtype-override-missing"]
    assert seen.severity is Level.ERROR
    assert seen.evidence[0].startswith(f"{config}:7:")


def test_ready_configs_are_nobodys(scope: Scope, play: Play) -> None:
    """As shipped they say nothing of this machine, unless they are named."""
    shutil.copytree(shipped_folder("configs"), scope.folder / "configs")
    report = play("t4_cloud")
    assert "config-none" in found(diagnose(scope, report))
    named = diagnose(replace(scope, configs=(scope.folder / "configs" / "config-stt-en_fr-hf.toml",)), report)
    assert "config-dtype-override-missing" in found(named)


def test_a_ready_config_that_was_edited_is_somebodys(scope: Scope, play: Play) -> None:
    """Its digest is no longer that of the shipped one, wherever it lies."""
    folder = Path(shutil.copytree(shipped_folder("configs"), scope.folder / "configs"))
    with (folder / "config-stt-en_fr-hf.toml").open("a") as file:
        file.write("# mine\n")
    assert found(diagnose(scope, play("t4_cloud")))["config-dtype-override-missing"].severity is Level.ERROR


def test_the_digests_of_the_ready_configs_are_theirs() -> None:
    """After a change of a ready config: `cd configs && sha256sum *.toml > SHA256SUMS`."""
    folder = shipped_folder("configs")
    listed = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert listed == {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.toml")}


def test_damaged_configs_do_not_stop_the_others(scope: Scope, bare: GpuReport) -> None:
    """Each that cannot be read is an error; the rest is judged."""
    good, bad = write_tiny_server(scope.folder), scope.folder / "bad.toml"
    bad.write_text("[x")
    diagnosis = diagnose(replace(scope, configs=(bad, scope.folder / "absent.toml", good)), bare)
    assert diagnosis.errors == 2
    assert {"config-unreadable", "config-ok"} <= found(diagnosis).keys()


def test_files_that_a_config_names(scope: Scope, bare: GpuReport) -> None:
    """One that is missing or cut off is an error of the config, once; one that is whole is said to be."""
    config = write_tiny_server(scope.folder)
    (scope.folder / MIMI_FILE).unlink()
    diagnosis = diagnose(replace(scope, configs=(config,)), bare)
    assert found(diagnosis)["config-file-missing"].severity is Level.ERROR
    assert WEIGHTS_FILE in found(diagnosis)["checkpoint-ok"].cause
    os.truncate(scope.folder / WEIGHTS_FILE, 100)
    diagnosis = diagnose(replace(scope, configs=(config,)), bare)
    assert found(diagnosis)["config-not-safetensors"].severity is Level.ERROR
    assert diagnosis.errors == 2


def test_checkpoints_are_read_by_their_headers(scope: Scope, play: Play) -> None:
    """A whole one is in order, a bf16 one on a T4 noted, a truncated one an error, and a leftover told."""
    folder = scope.folder / "assets" / "fp16"
    folder.mkdir(parents=True)
    whole = write_tiny_weights(folder / "whole.safetensors")
    report = play("t4_cloud")
    assert {"checkpoint-ok", "checkpoint-bf16"} <= found(diagnose(scope, report)).keys()
    cut = Path(shutil.copy(whole, folder / "cut.safetensors"))
    os.truncate(cut, cut.stat().st_size - 1)
    (folder / ".new.safetensors.dsmops-partial").write_bytes(b"half")
    seen = found(diagnose(scope, report))
    assert "cut.safetensors" in seen["checkpoint-damaged"].cause
    assert seen["checkpoint-partial"].severity is Level.NOTE


def test_checkpoints_that_are_named(scope: Scope, bare: GpuReport) -> None:
    """A file, a folder, nothing, an empty folder, and one of the hub that is not here."""
    write_tiny_weights(scope.folder / WEIGHTS_FILE)
    (scope.folder / "empty").mkdir()
    names = ("model.safetensors", ".", "absent", "empty", "hf://kyutai/stt-1b-en_fr-candle/model.safetensors")
    area = next(area for area in diagnose(replace(scope, checkpoints=names), bare).areas if area.name == "checkpoints")
    assert [each.name for each in area.findings] == [
        "checkpoint-missing",
        "checkpoint-none",
        "checkpoint-ok",
        "checkpoint-ok",
        "checkpoint-missing",
    ]


# hub


@pytest.fixture
def hub_config(scope: Scope) -> Path:
    """A config whose weights are on the hub, and not here."""
    config = write_tiny_server(scope.folder)
    config.write_text(CONFIG.replace(f'"{WEIGHTS_FILE}"', '"hf://kyutai/tiny/model.safetensors"'))
    return config


@pytest.mark.parametrize(
    ("repo", "token", "name", "code"),
    [
        (Repo({"model.safetensors": b"weights"}), None, "hub-ok", Level.OK),
        (Repo({"model.safetensors": b"weights"}), "hf_wrong", "hub-refused", Level.ERROR),
        (Repo({"model.safetensors": b"weights"}, gated=True), None, "hub-refused", Level.ERROR),
        (Repo({"other.safetensors": b"weights"}), None, "hub-file-missing", Level.ERROR),
        (None, None, "hub-file-missing", Level.ERROR),
    ],
    ids=["open", "wrong-token", "gated", "no-such-file", "no-such-repo"],
)
def test_the_hub_is_asked_for_what_is_missing(
    repo: Repo | None,
    token: str | None,
    name: str,
    code: Level,
    scope: Scope,
    hub_config: Path,
    bare: GpuReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One question for each repository; a token that is refused even for a public model is told with its public report."""
    with HubServer({"kyutai/tiny": repo} if repo else {}) as hub:
        for key, value in hub.env(scope.folder / "hf").items():
            monkeypatch.setenv(key, value)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        seen = found(diagnose(replace(scope, configs=(hub_config,), offline=False), bare))
    assert seen[name].severity is code
    assert ("hub-token-unread" in seen) == bool(token)
    assert not token or token not in repr(seen)


def test_a_hub_that_does_not_answer_matters_when_it_is_needed(scope: Scope, hub_config: Path, bare: GpuReport) -> None:
    """Without a network a machine that has everything is in order; one whose config names what is not here is not."""
    online = replace(scope, offline=False)
    assert found(diagnose(online, bare))["hub-unreachable"].severity is Level.NOTE
    assert found(diagnose(replace(online, configs=(hub_config,)), bare))["hub-unreachable"].severity is Level.ERROR


def test_settings_that_the_server_does_not_read(scope: Scope, hub_config: Path, bare: GpuReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache elsewhere, a token elsewhere, no network by decree, and an address that is none."""
    monkeypatch.setenv("HF_HUB_CACHE", str(scope.folder / "cache"))
    (scope.folder / "token").write_text("hf_mine")
    monkeypatch.setenv("HF_TOKEN_PATH", str(scope.folder / "token"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = found(diagnose(replace(scope, configs=(hub_config,), offline=False), bare))
    assert seen["hub-cache-elsewhere"].severity is Level.WARNING
    assert str(scope.folder / "token") in seen["hub-token-unread"].cause
    assert seen["hub-offline"].severity is Level.ERROR
    monkeypatch.setenv("HF_ENDPOINT", "ftp://hub")
    seen = found(diagnose(scope, bare))
    assert seen["hub-settings"].severity is Level.ERROR
    assert seen["area-unseen"].severity is Level.WARNING


# disks and ports


def test_room_is_compared_with_what_comes_next(scope: Scope, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 needs the 1B model once more, converted; a log folder a day's worth."""
    usage = shutil.disk_usage(scope.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=500 << 20))
    report, config = play("t4_cloud"), write_tiny_server(scope.folder)
    seen = found(diagnose(replace(scope, configs=(config,)), report))
    assert "1.84 GiB" in seen["disk-too-small"].cause
    assert seen["disk-low"].severity is Level.WARNING


def test_what_a_speaking_config_takes_without_naming_it_is_counted(scope: Scope, bare: GpuReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ready config names a tokenizer; the server's script fetches weights, Mimi and config.json all the same."""
    usage = shutil.disk_usage(scope.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 << 30))
    seen = found(diagnose(replace(scope, configs=(shipped_folder("configs") / "config-tts.toml",)), bare))
    assert "3.80 GiB" in seen["disk-too-small"].cause
    assert len([line for line in seen["hub-offline"].evidence if "kyutai/tts-1.6b-en_fr/" in line]) == 4
    assert seen["checkpoint-none"].fix == "hf download kyutai/tts-1.6b-en_fr"


def test_a_folder_that_may_not_be_written(scope: Scope, bare: GpuReport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns it is said."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "belongs to user" in found(diagnose(scope, bare))["disk-not-writable"].evidence[0]


class _Handler(BaseHTTPRequestHandler):
    answers: dict[str, object]

    def do_GET(self) -> None:
        body = json.dumps(self.answers.get(self.path)).encode()
        self.send_response(200 if self.path in self.answers else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, object]], int]]:
    """Start a server that gives these JSON answers, and return its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, object]) -> int:
        handler = type("Handler", (_Handler,), {"answers": answers})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("used", "name"), [("3", "port-server"), ("64", "port-server-full")])
def test_a_speech_server_on_the_port_is_asked(used: str, name: str, scope: Scope, bare: GpuReport, serve: Callable[..., int]) -> None:
    """It says what it is and how many slots are taken; full may be dead, so the smoke test is named."""
    slots = [{"type": "batched_asr", "path": "/api/asr-streaming", "used_slots": used, "total_slots": "64"}]
    port = serve({"/api/build_info": {"git_describe": "dc0b3d1", "build_timestamp": "2025-07-21"}, "/api/modules_info": slots})
    seen = found(diagnose(replace(scope, port=port), bare))[name]
    assert f"/api/asr-streaming: {used} of 64 slots used" in seen.evidence
    assert f"ws://127.0.0.1:{port}" in seen.fix
    assert any(f"pid {os.getpid()}" in line for line in seen.evidence)


def test_another_program_on_the_port(scope: Scope, bare: GpuReport, serve: Callable[..., int]) -> None:
    """One that answers otherwise, one that never answers, and one that listens on another address only."""
    with socket.create_server(("127.0.0.2", 0)) as elsewhere:
        for port in (serve({}), elsewhere.getsockname()[1]):
            seen = found(diagnose(replace(scope, port=port), bare))["port-taken"]
            assert seen.severity is Level.ERROR
            assert any(f"pid {os.getpid()}" in line for line in seen.evidence)


# logs


def log_findings(scope: Scope, gpu: GpuReport) -> dict[str, Finding]:
    area = next(area for area in diagnose(scope, gpu).areas if area.name == "logs")
    return {each.name: each for each in area.findings}


def test_failures_count_since_the_last_start(scope: Scope, bare: GpuReport) -> None:
    """A model loop that died is an error; once the server was started again it is history, but a key in the log stays one."""
    (scope.folder / "logs").mkdir()
    log = scope.folder / "logs" / "log.stt.2025-11-15"
    log.write_bytes(START + KEY + DEAD + STEP)
    seen = log_findings(scope, bare)
    assert seen["model-loop-dead"].severity is Level.ERROR
    assert seen["model-loop-dead"].evidence[0] == f"{log}, line 3"
    log.write_bytes(START + KEY + DEAD + START + STEP)
    seen = log_findings(scope, bare)
    assert seen["model-loop-dead"].severity is Level.NOTE
    assert seen["key-in-log"].severity is Level.WARNING
    assert "0b4c" not in repr(seen)


def test_a_client_cannot_make_failures_history(scope: Scope, bare: GpuReport) -> None:
    """A text to be spoken that reads like a server's first line is no start; a start in colours is one."""
    log = scope.folder / "log.stt"
    said = b'2025-11-15T08:40:00.000000Z  INFO moshi_server: src/main.rs:7: handling tts query Q { text: "main.rs:475: build_info=" }\n'
    log.write_bytes(START + DEAD + said)
    assert log_findings(replace(scope, logs=(log,)), bare)["model-loop-dead"].severity is Level.ERROR
    dim, italic, end = b"\x1b[2m", b"\x1b[3m", b"\x1b[0m"
    colours = dim + b"src/main.rs" + end + dim + b":" + end + dim + b"475:" + end + b" " + italic + b"build_info" + end + b"=B\n"
    log.write_bytes(START + DEAD + colours)
    assert log_findings(replace(scope, logs=(log,)), bare)["model-loop-dead"].severity is Level.NOTE


def test_a_long_log_is_read_from_its_end(scope: Scope, bare: GpuReport) -> None:
    """Old failures beyond the limit are not looked at; what was named is read whatever it is called, compressed too."""
    log = scope.folder / "server-output"
    log.write_bytes(DEAD + STEP * (_MOST_BYTES // len(STEP) + 1) + b"no free channels\n")
    for path in (log, log.with_suffix(".gz")):
        if path != log:
            path.write_bytes(gzip.compress(log.read_bytes(), 1))
        seen = log_findings(replace(scope, logs=(path,)), bare)
        assert seen.keys() == {"no-free-channels"}
        assert "the last 8.00 MiB" in seen["no-free-channels"].evidence[0]


def test_logs_that_cannot_be_read(scope: Scope, bare: GpuReport) -> None:
    """Absent, damaged, a device: an error where it was named."""
    (scope.folder / "log.gz").write_bytes(gzip.compress(DEAD)[:-9])
    for path in (scope.folder / "absent", scope.folder / "log.gz", Path("/dev/null")):
        assert log_findings(replace(scope, logs=(path,)), bare)["log-unreadable"].severity is Level.ERROR


def test_the_log_folder_of_a_config_is_looked_into(scope: Scope, bare: GpuReport) -> None:
    """Its newest logs, by their names; other files are left alone."""
    config = write_tiny_server(scope.folder)
    folder = scope.folder / "records"
    config.write_text(CONFIG.replace('log_dir = "logs"', 'log_dir = "records"'))
    folder.mkdir()
    (folder / "log.tiny.2025-11-15").write_bytes(START + STEP)
    (folder / "tiny-asr-1.safetensors").write_bytes(DEAD)
    assert log_findings(replace(scope, configs=(config,)), bare).keys() == {"log-ok"}


# names


def test_every_name_of_a_room_is_known() -> None:
    """What the lint, the log scan and the driver's verdicts can say is in the table."""
    assert {f"config-{code}" for code in CODES} | FAILURES.keys() <= NAMES
    source = (Path(__file__).resolve().parents[2] / "dsmops" / "gpu" / "findings.py").read_text()
    codes = {code.split('"')[0] for code in source.split('"gpu.')[1:]}
    assert codes
    assert {f"gpu-{code.replace('_', '-')}" for code in codes} <= NAMES


def test_the_published_models_have_sizes() -> None:
    """What a download or a conversion takes is known for each."""
    from dsmops.flows.doctor.machine import _weight_bytes

    assert all(_weight_bytes(model) > 1 << 30 for model in MODELS.values())
