"""Every way in which the hub says no becomes one error with the right exit code, and a hint that
helps.
"""

from pathlib import Path

import pytest

from dsmops.errors import CredentialsError, DsmopsError, SourceError, TransferError
from dsmops.hub import plan_download, read_head
from dsmops.hub.source import HubFile, parse_source
from dsmops.report.logs import setup_logging
from tests.hub.conftest import StartHub
from tests.support.hub_server import Fault, Repo, no_hub

FILES = {
    "model.safetensors": b"weights",
    "mimi-pytorch-e351c8d8@125.safetensors": b"codec",
    "tokenizer.model": b"pieces",
}
REPOS = {
    "org/open": Repo(FILES),
    "org/private": Repo(FILES, readers=frozenset({"hf_reader"})),
    "org/gated": Repo(FILES, gated=True),
}


@pytest.mark.parametrize(
    ("source", "token", "error", "code", "words"),
    [
        ("hf://org/none/model.safetensors", "", SourceError, "hub.repo_missing", "Check the name"),
        (
            "hf://org/none/model.safetensors",
            "hf_good",
            SourceError,
            "hub.repo_missing",
            "Check the name",
        ),
        (
            "hf://kyutai/tts-1.6b-en_rf/model.safetensors",
            "",
            SourceError,
            "hub.repo_missing",
            "Did you mean kyutai/tts-1.6b-en_fr?",
        ),
        (
            "hf://org/private/model.safetensors",
            "",
            SourceError,
            "hub.repo_missing",
            "hf auth login",
        ),
        (
            "hf://org/private/model.safetensors",
            "hf_good",
            SourceError,
            "hub.repo_missing",
            "private",
        ),
        ("hf://org/gated/model.safetensors", "", CredentialsError, "hub.gated", "/org/gated"),
        (
            "hf://org/gated/model.safetensors",
            "hf_good",
            CredentialsError,
            "hub.gated",
            "hf auth login",
        ),
        ("hf://org/open@v9/model.safetensors", "", SourceError, "hub.revision_missing", "@v9"),
        (
            "hf://org/open/model.safetensor",
            "",
            SourceError,
            "hub.file_missing",
            "model.safetensors",
        ),
        (
            "hf://org/open/mimi.safetensors",
            "",
            SourceError,
            "hub.file_missing",
            "mimi-pytorch-e351c8d8@125.safetensors",
        ),
        ("hf://org/open/zzz", "", SourceError, "hub.file_missing", "tokenizer.model"),
        (
            "hf://org/open/model.safetensors",
            "hf_stale",
            CredentialsError,
            "hub.token_refused",
            "unset HF_TOKEN",
        ),
        (
            "hf://org/open/model.safetensors",
            "hf_ü",
            CredentialsError,
            "hub.token_refused",
            "HF_TOKEN",
        ),
    ],
)
def test_refusals(
    source: str,
    token: str,
    error: type[DsmopsError],
    code: str,
    words: str,
    start_hub: StartHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Missing, private, gated and refused are distinguished, in planning and in reading a head
    alike, and no token is shown.
    """
    start_hub(REPOS)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    for ask in (lambda file: plan_download([file]), lambda file: read_head(file, 8)):
        with pytest.raises(error) as refused:
            ask(parse_source(source))
        assert refused.value.code == code
        assert words in f"{refused.value.message} {refused.value.hint}"
        assert "hf_stale" not in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault("HEAD", times=99, status=500), TransferError, "500"),
        (
            Fault("HEAD", times=99, status=429, headers={"Retry-After": "0"}),
            TransferError,
            "3 attempts",
        ),
        (
            Fault("HEAD", status=429, headers={"Retry-After": "300"}),
            TransferError,
            "asks to wait 300 s",
        ),
        (
            Fault("HEAD", status=429, headers={"RateLimit": '"resolvers";r=0;t=155'}),
            TransferError,
            "asks to wait 155 s",
        ),
        (Fault("HEAD", status=401), CredentialsError, "401"),
        (Fault("HEAD", status=403), CredentialsError, "403"),
        (Fault("HEAD", status=418), TransferError, "418"),
        (Fault("HEAD", status=200), TransferError, "does not answer like a Hugging Face hub"),
        (
            Fault(
                "HEAD",
                status=403,
                headers={"X-Error-Message": "Access to this resource is disabled."},
            ),
            SourceError,
            "disabled",
        ),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_statuses(fault: Fault, error: type[DsmopsError], words: str, start_hub: StartHub) -> None:
    """A failing or a foreign server ends in one error with its status, after retries where these
    can help.
    """
    hub = start_hub({"org/open": FILES})
    hub.faults.append(fault)
    with pytest.raises(error, match=words):
        plan_download([HubFile("org/open", "main", "model.safetensors")])


def test_a_hub_that_recovers_is_asked_again(start_hub: StartHub) -> None:
    """Two failures in a row, one with a wait of its own, do not fail the plan."""
    hub = start_hub({"org/open": FILES})
    hub.faults += [
        Fault("HEAD", status=503),
        Fault("HEAD", status=429, headers={"Retry-After": "0"}),
    ]
    assert plan_download([HubFile("org/open", "main", "model.safetensors")]).total_bytes == len(
        b"weights"
    )
    assert [request.status for request in hub.requests] == [503, 429, 302]


@pytest.mark.parametrize("quiet", [False, True])
def test_waiting_is_not_silent(
    quiet: bool, start_hub: StartHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before each pause a message says why and for how long, unless they asked for quiet."""
    hub = start_hub({"org/open": FILES})
    hub.faults.append(Fault("HEAD", status=503))
    setup_logging(debug=False, quiet=quiet)
    plan_download([HubFile("org/open", "main", "model.safetensors")])
    told = (
        f"warning: {hub.url} answers 503 for hf://org/open/model.safetensors; trying again in 0 s\n"
    )
    assert capsys.readouterr().err == ("" if quiet else told)


def test_without_a_network(
    start_hub: StartHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused connection is a transfer error that names the address and the way to work from the
    cache.
    """
    start_hub({})
    with no_hub(tmp_path) as env:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TransferError, match=env["HF_ENDPOINT"]) as failed:
            plan_download([HubFile("org/open", "main", "model.safetensors")])
    assert failed.value.exit_code == 6
    assert "HF_HUB_OFFLINE=1" in failed.value.hint


def test_neighbours_are_left_out_where_they_cannot_be_listed(start_hub: StartHub) -> None:
    """A missing file is reported even when listing the repository fails."""
    hub = start_hub({"org/open": FILES})
    hub.faults.append(Fault("/api/models", times=99, status=404))
    with pytest.raises(SourceError) as refused:
        plan_download([HubFile("org/open", "main", "nope.safetensors")])
    assert refused.value.hint.endswith("/org/open/tree/main")
