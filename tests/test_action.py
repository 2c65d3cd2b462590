"""The composite action for CI and the README's recipe: parsed, and their steps run."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.support.processes import python

ROOT = Path(__file__).resolve().parents[1]
ACTION = ROOT / ".github" / "actions" / "speech-smoke-test" / "action.yml"


def action() -> dict[str, Any]:
    loaded = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def readme_steps() -> list[str]:
    """Return the `run` lines of the README's recipe."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```yaml\n(jobs:.*?)```", readme, re.DOTALL)
    assert len(recipe.splitlines()) <= 10
    (job,) = yaml.safe_load(recipe)["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def run_step(name: str, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a step as the runner does, with its inputs or their defaults."""
    (step,) = (step for step in action()["runs"]["steps"] if step["name"] == name)
    values = {key: each["default"] for key, each in action()["inputs"].items()} | inputs
    environment = {
        variable: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)
        for variable, text in step["env"].items()
    }
    assert step["shell"] == "bash"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        env={**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def put(folder: Path, name: str, script: str) -> None:
    """Put a program into the folder that is first in the PATH of a step."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_it_is_a_composite_action_whose_inputs_are_used() -> None:
    """Each input has a description and a default, and some step takes it."""
    parsed = action()
    assert parsed["runs"]["using"] == "composite"
    for name, given in parsed["inputs"].items():
        assert given["description"]
        assert given["default"]
        assert f"${{{{ inputs.{name} }}}}" in ACTION.read_text(encoding="utf-8")


def test_the_install_step_asks_for_the_cpu_build(tmp_path: Path) -> None:
    """`python` is a stand-in that writes down its arguments: the step installs nothing here."""
    put(tmp_path, "python", 'echo "$@" >> asked')
    done = run_step("Install", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    pip, uv = (tmp_path / "asked").read_text().splitlines()
    assert re.fullmatch(r"-m pip install --quiet uv==[\d.]+", pip)
    assert uv == "-m uv pip install --system --torch-backend cpu .[worker]"
    put(tmp_path, "python", "exit 3")
    assert run_step("Install", tmp_path).returncode == 3


def test_the_test_step_fails_with_the_server_and_writes_its_file(tmp_path: Path) -> None:
    """A server that is not there: the job is red, and the JUnit file says why."""
    put(tmp_path, "dsmops", f'exec {shlex.join(python())} -m dsmops "$@"')
    done = run_step("Test", tmp_path, arguments="--url ws://127.0.0.1:9 --quiet")
    assert done.returncode == 1, done.stderr
    assert ElementTree.parse(tmp_path / "smoke.xml").getroot().iter("failure")


@pytest.mark.heavy
def test_the_test_step_as_it_stands(tmp_path: Path) -> None:
    """All checks of a simulated card."""
    put(tmp_path, "dsmops", f'exec {shlex.join(python())} -m dsmops "$@"')
    done = run_step("Test", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "smoke.xml").stat().st_size > 1000


def test_the_recipe_of_the_readme_does_the_same() -> None:
    """The same installation, and the same test."""
    install, test = readme_steps()
    assert "uv pip install --system --torch-backend cpu '.[worker]'" in install
    assert test == "dsmops smoke-test --simulate-success --junit smoke.xml"
