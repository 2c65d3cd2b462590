"""Where a worker computes, and what it says where that is not the GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dsmops.config.load import read_config
from dsmops.config.modules import modules
from dsmops.errors import ConfigError, DriverMissingError
from dsmops.operations.speech.serving import Options, module_settings, open_service
from dsmops.operations.speech.tokens import TokenOptions
from dsmops.progress import SILENT
from dsmops.worker.models.device import best_device
from dsmops.worker.tiny.stt import write_tiny_stt
from dsmops.worker.tiny.tts import write_tiny_tts
from tests.support.workers import ThreadedServer

_REASON = f"torch {torch.__version__} has no kernels for GeForce GTX 1080 (sm_61)"


@pytest.fixture(autouse=True)
def old_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of which torch knows the name and has no code for."""
    for name, value in {
        "is_available": True,
        "get_device_capability": (6, 1),
        "get_device_name": "GeForce GTX 1080",
        "get_arch_list": ["sm_75", "sm_80", "compute_90"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)


def test_a_torch_without_kernels_for_the_card_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker computes on the CPU, says why in its log, and serves."""
    config = write_tiny_stt(tmp_path).server_config
    monkeypatch.chdir(tmp_path)  # Its file names are relative.
    (module,) = modules(read_config(config))
    settings = module_settings(config, module, Options(), SILENT)
    with ThreadedServer(module=settings) as server:
        (facts,) = settings.facts.read()
        assert (facts.device, facts.fallback) == ("cpu", _REASON)
    (warning,) = [line for line in server.log.splitlines() if " WARN " in line]
    assert "computing on the CPU, which is slow" in warning
    assert f'reason="{_REASON}"' in warning
    with (
        pytest.raises(DriverMissingError, match="no kernels for GeForce GTX 1080") as caught,
        ThreadedServer(module=module_settings(config, module, Options(require_gpu=True), SILENT)),
    ):
        pass
    assert "check-gpu" in caught.value.hint


def test_a_cpu_that_was_asked_for_is_not_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_tiny_stt(tmp_path).server_config
    monkeypatch.chdir(tmp_path)  # Its file names are relative.
    (module,) = modules(read_config(config))
    settings = module_settings(config, module, Options(cpu=True), SILENT)
    with ThreadedServer(module=settings) as server:
        assert settings.facts.read()[0].fallback == ""
    assert " WARN " not in server.log


def test_a_card_with_kernels_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_device(cpu=False).type == "cpu"
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_61"])
    assert best_device(cpu=False) == torch.device("cuda:0")


def test_a_config_without_keys_is_served_to_tokens_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_tiny_stt(tmp_path).server_config
    monkeypatch.chdir(tmp_path)
    keys = re.compile(r"^authorized_ids = .*$", re.MULTILINE)
    config.write_text(keys.sub("authorized_ids = []", config.read_text()))
    with pytest.raises(ConfigError, match="authorized_ids is empty"):
        open_service(config, Options(cpu=True))
    secret = "a secret of the auth server and this one"
    service = open_service(config, Options(cpu=True, tokens=TokenOptions(secret=secret)))
    assert "no-api-keys" not in [finding.code for finding in service.findings]


_IMPORTED = """
import sys
from pathlib import Path

import dsmops.worker.serving.supervisor
from dsmops.operations.speech.serving import Options, module_settings, open_service
from dsmops.progress import SILENT

for path in map(Path, sys.argv[1:]):
    service = open_service(path, Options(addr="127.0.0.1"))
    for module in service.modules:
        module_settings(path, module, Options(), SILENT)
sys.exit("torch is imported" if "torch" in sys.modules else 0)
"""


@pytest.mark.slow
def test_model_processes_begin_before_torch_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each imports it while its device is prepared; the fronts never have it."""
    monkeypatch.chdir(tmp_path)  # File names in the configs are relative.
    configs = [write(tmp_path).server_config for write in (write_tiny_stt, write_tiny_tts)]
    command = [sys.executable, "-c", _IMPORTED, *map(str, configs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
