"""`check-gpu` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from dsmops.cli.app import app
from dsmops.gpu.torch_build import TorchBuild
from tests.gpu.hosts import PlayedHost, load_host
from tests.support.cli import dsmops

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "gpu" / "views"

DEVICE_KEYS = {
    "name",
    "shares_host_memory",
    "compute_capability",
    "memory_total_bytes",
    "memory_free_bytes",
    "memory_bandwidth_bytes_per_s",
    "nvml_index",
    "cuda_ordinal",
    "uuid",
    "source",
}
DEVICE_REPORT_KEYS = {
    "device",
    "state",
    "verdict",
    "pci_bus_id",
    "memory_used_bytes",
    "display_active",
    "mig_parent_uuid",
    "processes",
    "from_catalogue",
    "simulated_as",
}
VERDICT_KEYS = {
    "family",
    "native_dtypes",
    "serving_dtype",
    "serving_reason",
    "bf16_fails",
    "bf16_error",
    "dtype_override",
    "conversion",
    "build",
    "torch_kernels",
}
DOCUMENT_KEYS = {
    "schema",
    "devices",
    "findings",
    "source",
    "driver_version",
    "cuda_driver_version",
    "cuda_visible_devices",
    "ordinals_certain",
    "torch",
    "pci_cards",
    "nvml_init_ms",
    "nvml_read_ms",
}


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command on a recorded host, with a still clock and one torch, and return the runner's
    result.
    """
    monkeypatch.setattr("dsmops.gpu.nvml.time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(
        "dsmops.gpu.detection.installed_torch", lambda: TorchBuild("2.5.1", "12.4", None)
    )

    def run(name: str, *args: str) -> Any:
        host = PlayedHost(load_host(name), tmp_path, monkeypatch)
        monkeypatch.setattr("dsmops.gpu.probe", host.probe)
        return CliRunner().invoke(app, ["check-gpu", *args])

    return run


@pytest.mark.parametrize(
    "name",
    [
        "turing_8gb",
        "mixed_t4_l4",
        "mig_two_instances",
        "lost_gpu",
        "all_hidden_empty",
        "smi_old_driver_470",
    ],
)
def test_text(name: str, play: Any, request: pytest.FixtureRequest) -> None:
    """The text of a report is what the golden file shows."""
    shown = play(name).stdout
    golden = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "turing_8gb",
        "mixed_t4_l4",
        "mig_two_instances",
        "field_unsupported",
        "lost_gpu",
        "no_driver",
    ],
)
def test_json_has_its_keys_whatever_is_missing(name: str, play: Any) -> None:
    """The document has the same keys on every host, with null where nothing is known."""
    document = json.loads(play(name, "--json").stdout)
    assert document["schema"] == "dsmops.check-gpu/1"
    assert set(document) == DOCUMENT_KEYS
    for each in document["devices"]:
        assert set(each) == DEVICE_REPORT_KEYS
        assert set(each["device"]) == DEVICE_KEYS
        assert set(each["verdict"]) == VERDICT_KEYS
        assert each["verdict"]["build"] is None or "cuda_compute_cap" in each["verdict"]["build"]
    for finding in document["findings"]:
        assert set(finding) == {"code", "severity", "message", "hint"}


def test_json_of_a_turing_card(play: Any) -> None:
    """The values a script needs to decide are there, with units in their keys."""
    [each] = json.loads(play("turing_8gb", "--json").stdout)["devices"]
    assert each["device"]["compute_capability"] == "7.5"
    assert each["device"]["memory_total_bytes"] == 8 << 30
    assert each["device"]["cuda_ordinal"] == 0
    assert each["verdict"]["serving_dtype"] == "F16"
    assert each["verdict"]["dtype_override"] == "f16"
    assert each["verdict"]["bf16_fails"] is True
    assert each["verdict"]["build"]["cuda_compute_cap"] == "75"
    assert each["processes"][0] == {
        "pid": 1402,
        "name": "/usr/lib/xorg/Xorg",
        "used_bytes": 412 << 20,
    }
    assert each["display_active"] is True


def test_a_hidden_card_does_not_count_as_pre_ampere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--fail-on-pre-ampere looks at what CUDA programs see: a T4 that the mask hides does not
    fail.
    """
    for code, mask in ((1, "GPU-00000001"), (0, "GPU-00000002")):
        folder = tmp_path / mask
        folder.mkdir()
        host = PlayedHost(
            load_host("mixed_t4_l4") | {"environ": {"CUDA_VISIBLE_DEVICES": mask}},
            folder,
            monkeypatch,
        )
        monkeypatch.setattr("dsmops.gpu.probe", host.probe)
        assert CliRunner().invoke(app, ["check-gpu", "--fail-on-pre-ampere"]).exit_code == code


def test_fail_on_pre_ampere() -> None:
    """Exit 1 for a visible card below 8.0, 0 for none, also with --quiet and --json."""
    assert (
        dsmops("check-gpu", "--simulate", "t4", "--simulate", "l4", "--fail-on-pre-ampere").code
        == 1
    )
    assert dsmops("check-gpu", "--simulate", "l4", "--fail-on-pre-ampere").code == 0
    old = dsmops("check-gpu", "--simulate", "v100", "--fail-on-pre-ampere", "--json")
    assert old.code == 1
    assert old.document["devices"][0]["verdict"]["family"] == "Volta"
    silent = dsmops("check-gpu", "--simulate", "t4", "--fail-on-pre-ampere", "--quiet")
    assert (silent.code, silent.stdout, silent.stderr) == (1, "", "")


def test_no_gpu_is_exit_4_with_a_reason() -> None:
    """When every device is hidden or none is there, the report goes to stdout, the reason to
    stderr, and the code is 4.
    """
    env = {"CUDA_VISIBLE_DEVICES": ""}
    shown = dsmops("check-gpu", env=env)
    assert shown.code == 4
    assert shown.stderr.startswith("error: no usable GPU: ")
    assert "\nhint: " in shown.stderr
    as_json = dsmops("check-gpu", "--json", "--fail-on-pre-ampere", env=env)
    assert as_json.code == 4
    assert as_json.document["findings"][0]["severity"] == "error"
    error = json.loads(as_json.stderr)["error"]
    assert error["code"] == as_json.document["findings"][0]["code"]
    assert error["hint"]


def test_an_unknown_card_is_bad_input() -> None:
    """An unknown card ends with code 3, one error, and its neighbours."""
    wrong = dsmops("check-gpu", "--simulate", "rtx2071")
    assert (wrong.code, wrong.stdout) == (3, "")
    assert "rtx2070" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_hostile_name_cannot_drive_the_terminal() -> None:
    """Control characters of a name are spelled out."""
    shown = dsmops("check-gpu", "--simulate", "75:\x1b[31mred")
    assert shown.code == 0
    assert "\x1b" not in shown.stdout


def test_no_heavy_library_is_loaded() -> None:
    """A run of check-gpu loads neither torch nor numpy."""
    import subprocess
    import sys

    code = (
        "import sys\nsys.argv = ['dsmops', 'check-gpu', '--quiet']\nfrom dsmops.cli.main import"
        " main\nmain()\nprint([name for name in ('torch', 'numpy', 'huggingface_hub', 'rich') if"
        " name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]"
