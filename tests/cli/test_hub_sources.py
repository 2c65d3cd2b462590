"""`hf://` on the command line, with the real client in a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dsmops.checkpoint.header import TensorInfo, render_header
from tests.support.cli import Run, dsmops
from tests.support.hub_server import HubServer, Repo

ELEMENTS = 500_000
HEAD = render_header([TensorInfo("a.weight", "BF16", (ELEMENTS,), 0, 2 * ELEMENTS)], {})
MODEL = HEAD + bytes(2 * ELEMENTS)
SOURCE = "hf://org/repo/model@1.safetensors"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    repos = {
        "org/repo": Repo({"model@1.safetensors": MODEL}),
        "org/gated": Repo({"m.safetensors": MODEL}, gated=True),
    }
    with HubServer(repos) as server:
        yield server


def test_inspect_reads_the_head_only(hub: HubServer, tmp_path: Path) -> None:
    """Inspecting a file on the hub transfers its header, not its data, and keeps nothing."""
    run = dsmops("inspect", "--json", SOURCE, env=hub.env(tmp_path))
    assert run.code == 0
    assert run.document["parameters"] == ELEMENTS
    assert hub.sent_bytes() < len(MODEL) / 4
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_convert_shows_sizes_first_and_downloads_once(hub: HubServer, tmp_path: Path) -> None:
    """The download is announced with its size and without any bar; the second conversion makes no
    request.
    """
    env, target = hub.env(tmp_path / "home"), tmp_path / "out.safetensors"
    dry = dsmops("convert", "--dry-run", SOURCE, target, env=env)
    assert (dry.code, hub.sent_bytes()) == (3, 0)
    first = dsmops("convert", SOURCE, target, env=env)
    assert first.code == 0
    assert first.stderr.splitlines() == [
        f"Downloading 1 file, 977 KiB, into {tmp_path / 'home' / 'hub'}",
        f"  {SOURCE}  977 KiB",
    ]
    hub.requests.clear()
    second = dsmops("convert", "--force", SOURCE, target, env=env)
    assert (second.code, second.stderr, hub.requests) == (0, "", [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "variables", "code", "words"),
    [
        ("hf://org/repo/model.safetensors", {}, 3, "model@1.safetensors"),
        ("hf://org/gated/m.safetensors", {}, 4, "hf auth login"),
        (SOURCE, {"HF_TOKEN": "hf_stale"}, 4, "unset HF_TOKEN"),
        (SOURCE, {"HF_HUB_OFFLINE": "1"}, 3, "hf download org/repo model@1.safetensors"),
        (SOURCE, {"HF_ENDPOINT": "hub.example"}, 3, "HF_ENDPOINT"),
    ],
)
def test_refusals_are_two_lines(
    source: str, variables: dict[str, str], code: int, words: str, hub: HubServer, tmp_path: Path
) -> None:
    """Every refusal is one error and one hint, with its exit code and nothing from the library
    around it.
    """
    run: Run = dsmops("inspect", source, env={**hub.env(tmp_path), **variables})
    assert (run.code, run.stdout) == (code, "")
    error, hint = run.stderr.splitlines()
    assert error.startswith("error: ")
    assert words in f"{error} {hint}"
