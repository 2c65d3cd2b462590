"""What every test gets: no surprises from the machine, its GPU, its network or its settings, and a
state folder of its own.
"""

import os
from pathlib import Path

# Before torch is loaded, for this process and those that tests start. The models here are tiny: a
# second thread costs more than it computes, and threads of parallel tests that spin for each other
# took half of the suite's time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
from hypothesis import HealthCheck, settings

from dsmops.user_settings import KEYS
from tests.support.documents import validate_documents, without_validation

validate_documents()

LONG = os.environ.get("DSMOPS_TEST_LONG", "") not in ("", "0")
settings.register_profile("short", max_examples=60, deadline=None, derandomize=True)
settings.register_profile(
    "long", max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("long" if LONG else "short")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` rewrites recorded expectations from what the code gives now; the diff is
    then read like code.
    """
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files from the present output"
    )


@pytest.fixture(autouse=True)
def _own_world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keep the machine out: no GPU but in tests marked `gpu`, no hub but one of the test's own, no
    settings, plain wide output.
    """
    for name in (
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "DSMOPS_DEBUG",
        "DSMOPS_CONFIG",
        *KEYS.values(),
    ):
        monkeypatch.delenv(name, raising=False)
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in (
        "HF_TOKEN",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)
    # The discard port, on which nothing listens: a test that forgot its own hub fails instead of
    # asking the public one.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def invented_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test make documents that have no schema."""
    without_validation(monkeypatch)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs (a raw log, speech, upstream's configs), which is not part of the
    repository.
    """
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real inputs, ../shared/data, is not here")
    return folder
