"""The hub is asked, or not, and the report says what the server would do otherwise; a real hub on
loopback answers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.findings import Severity
from dsmops.gpu import GpuReport
from dsmops.operations.doctor import Scope, diagnose
from tests.operations.doctor.conftest import found
from tests.support.hub_server import HubServer, Repo
from tests.support.tiny_checkpoint import CONFIG, WEIGHTS_FILE, write_tiny_server


@pytest.fixture
def hub_config(scope: Scope) -> Path:
    """A config whose weights are on the hub, and not here."""
    config = write_tiny_server(scope.folder)
    config.write_text(CONFIG.replace(f'"{WEIGHTS_FILE}"', '"hf://kyutai/tiny/model.safetensors"'))
    return config


@pytest.mark.parametrize(
    ("repo", "token", "name", "code"),
    [
        (Repo({"model.safetensors": b"weights"}), None, "hub-ok", Severity.OK),
        (Repo({"model.safetensors": b"weights"}), "hf_wrong", "hub-refused", Severity.ERROR),
        (Repo({"model.safetensors": b"weights"}, gated=True), None, "hub-refused", Severity.ERROR),
        (Repo({"other.safetensors": b"weights"}), None, "hub-file-missing", Severity.ERROR),
        (None, None, "hub-file-missing", Severity.ERROR),
    ],
    ids=["open", "wrong-token", "gated", "no-such-file", "no-such-repo"],
)
def test_the_hub_is_asked_for_what_is_missing(
    repo: Repo | None,
    token: str | None,
    name: str,
    code: Severity,
    scope: Scope,
    hub_config: Path,
    bare: GpuReport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One question for each repository; a token that is refused even for a public model is reported
    with its public issue.
    """
    with HubServer({"kyutai/tiny": repo} if repo else {}) as hub:
        for key, value in hub.env(scope.folder / "hf").items():
            monkeypatch.setenv(key, value)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        seen = found(diagnose(replace(scope, configs=(hub_config,), offline=False), bare))
    assert seen[name].severity is code
    assert ("hub-token-unread" in seen) == bool(token)
    assert not token or token not in repr(seen)


def test_a_hub_that_does_not_answer_matters_when_it_is_needed(
    scope: Scope, hub_config: Path, bare: GpuReport
) -> None:
    """Without a network a machine that has everything is in order; one whose config names what is
    not here is not.
    """
    online = replace(scope, offline=False)
    assert found(diagnose(online, bare))["hub-unreachable"].severity is Severity.NOTE
    assert (
        found(diagnose(replace(online, configs=(hub_config,)), bare))["hub-unreachable"].severity
        is Severity.ERROR
    )


def test_settings_that_the_server_does_not_read(
    scope: Scope, hub_config: Path, bare: GpuReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache elsewhere, a token elsewhere, no network by decree, and an invalid address."""
    monkeypatch.setenv("HF_HUB_CACHE", str(scope.folder / "cache"))
    (scope.folder / "token").write_text("hf_mine")
    monkeypatch.setenv("HF_TOKEN_PATH", str(scope.folder / "token"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen = found(diagnose(replace(scope, configs=(hub_config,), offline=False), bare))
    assert seen["hub-cache-elsewhere"].severity is Severity.WARNING
    assert str(scope.folder / "token") in seen["hub-token-unread"].message
    assert seen["hub-offline"].severity is Severity.ERROR
    monkeypatch.setenv("HF_ENDPOINT", "ftp://hub")
    seen = found(diagnose(scope, bare))
    assert seen["hub-settings"].severity is Severity.ERROR
    assert seen["area-unseen"].severity is Severity.WARNING
