"""The runbooks cannot rot: every command in a `console` block runs, and every link leads
somewhere.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from dsmops.cli.app import app
from dsmops.models import MODELS
from dsmops.operations.doctor import RUNBOOKS
from dsmops.operations.smoke import CHECKS
from tests.support.hub_server import Content, HubServer
from tests.support.processes import python
from tests.support.tiny_checkpoint import PUBLISHED_TTS_CONFIG, write_published_header

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in (ROOT / "runbooks").rglob("*.md") if path.name != "commands.md")


def console_commands(page: Path) -> list[str]:
    """Return the commands of a page's `console` blocks: lines that begin with `$ `."""
    blocks = re.findall(
        r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


RUN_A_MODEL = {"transcribing"}
"""Pages whose commands run the 1B model, on `speech.wav`."""
README = ROOT / "README.md"
WITH_COMMANDS = [page for page in [*PAGES, README] if console_commands(page)]


def written_commands(page: Path) -> list[list[str]]:
    """Return the words of every `dsmops` command in any block of a page, also where it is not
    run.
    """
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?!text)\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [
        re.search(r"(?:^|[\s/])dsmops ([a-z][\w-]* ?.*)", line.split(" # ")[0]) for line in lines
    ]
    return [re.split(r"[|;&>\"]| - run", match[1])[0].split() for match in found if match]


def _options() -> dict[str, set[str]]:
    root = typer.main.get_group(app)
    context = root.make_context("dsmops", [], resilient_parsing=True)
    found = {}
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        found[name] = {"-h", "--help"} | {
            spelled
            for parameter in command.params
            for spelled in (*parameter.opts, *parameter.secondary_opts)
        }
    return found


OPTIONS = _options()
"""The options of each command."""


@pytest.fixture(scope="module")
def published_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a hub on loopback that has the published 1B and TTS models, their headers
    real and their values zero.
    """
    folder = tmp_path_factory.mktemp("hub")
    repos: dict[str, dict[str, Content | bytes]] = {}
    for model in (MODELS["stt-1b-en_fr"], MODELS["tts-1.6b-en_fr"]):
        header = write_published_header(folder / model.name, model.name)
        repos[model.hf_repo] = {
            # Working out the digest of gigabytes of zeros would take seconds, and no page downloads
            # them.
            model.model_file: Content(model.model_file, header, digest=f"{len(repos)}" * 64),
            model.tokenizer_file: b"pieces",
            model.mimi_file: b"codec",
            "config.json": json.dumps(PUBLISHED_TTS_CONFIG if model.config_file else {}).encode(),
        }
    with HubServer(repos) as hub:
        yield hub.env(folder / "home")


@pytest.fixture(scope="module")
def runnable_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a hub whose published 1B model is a tiny one, which can be run."""
    pytest.importorskip("torch", reason="the worker extra is not installed")
    from dsmops.worker.tiny.stt import write_tiny_stt

    folder = tmp_path_factory.mktemp("runnable")
    write_tiny_stt(folder / "model")
    with HubServer(
        {MODELS["stt-1b-en_fr"].hf_repo: {path.name: path for path in (folder / "model").iterdir()}}
    ) as hub:
        yield hub.env(folder / "home")


def recording() -> bytes:
    """Return a WAV file of two seconds."""
    from tests.support.sound import encoded, sweep

    return encoded(sweep(24_000, 2))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout to the commands, and takes what they write."""
    for name in ("configs", "runbooks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    if (ROOT / "tests" / "data" / "logs").is_dir():
        shutil.copytree(ROOT / "tests" / "data" / "logs", tmp_path / "tests" / "data" / "logs")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "dsmops"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(python())} -m dsmops "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    page: Path, checkout: Path, request: pytest.FixtureRequest
) -> None:
    """In order, in one folder, each exits 0 and prints something."""
    hub = request.getfixturevalue("runnable_hub" if page.stem in RUN_A_MODEL else "published_hub")
    if page.stem in RUN_A_MODEL:
        (checkout / "speech.wav").write_bytes(recording())
    env = {
        **os.environ,
        **hub,
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    for command in console_commands(page):
        done = subprocess.run(
            command,
            shell=True,
            cwd=checkout,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        assert done.stdout + done.stderr, command


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.stem)
def test_every_written_command_exists(page: Path) -> None:
    """Also in `shell` blocks, which are not run: its name and its options are those of the help."""
    for name, *words in written_commands(page):
        assert name in OPTIONS, f"{page.name}: dsmops {name}"
        # `fleet CHECK -- OPTIONS` passes on those of the check.
        own = words[: words.index("--")] if "--" in words else words
        passed_on = {word for word in words[len(own) + 1 :] if word.startswith("--")}
        assert not passed_on or passed_on <= OPTIONS[own[0]], f"{page.name}: {passed_on}"
        options = {word.partition("=")[0] for word in own if re.match(r"--?[a-z]", word)}
        assert options <= OPTIONS[name], f"{page.name}: {name} has no {options - OPTIONS[name]}"


def test_the_readme_has_the_commands_of_its_path() -> None:
    """The path to a transcript is there, and its commands were found by this test's own parser."""
    names = [name for name, *_ in written_commands(README)]
    path = ["check-gpu", "plan", "prep-sm75", "smoke-test", "worker", "transcribe"]
    # The first try without a card comes before the path.
    names = names[names.index("plan") - 1 :]
    assert [name for name in dict.fromkeys(names) if name in path] == path


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Relative links name files that are there."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_listed() -> None:
    """The index names each page beside it."""
    index = (ROOT / "runbooks" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "runbooks").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_every_promise_names_a_test_that_exists() -> None:
    """A ticked promise ends with a test of this suite; an open one says what is missing."""
    lines = [
        line
        for line in (ROOT / "runbooks" / "promises.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("- [")
    ]
    assert lines
    for line in lines:
        named = re.search(r"`(tests/[\w/]+\.py)::(\w+)`$", line)
        assert (named is not None) == line.startswith("- [x]"), line
        if named is not None:
            assert f"def {named[2]}(" in (ROOT / named[1]).read_text(encoding="utf-8"), line


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


NAMED = RUNBOOKS | {
    check.name: check.runbook.removeprefix("runbooks/") for check in CHECKS.values()
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_name_that_is_given_has_its_page(name: str) -> None:
    """What `doctor`, the log scan and `smoke-test` can name is written about: the page is there,
    has the heading, and spells the name.
    """
    page, _, anchor = NAMED[name].partition("#")
    path = ROOT / "runbooks" / page
    assert path.is_file(), f"{name}: there is no {page}"
    assert not anchor or anchor in headings(path), f"{name}: {page} has no heading {anchor}"
    assert f"`{name}`" in path.read_text(encoding="utf-8"), f"{page} does not name {name}"
