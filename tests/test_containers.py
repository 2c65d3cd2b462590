"""The container recipe: parsed, linted, and built where Docker runs."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from dockerfile_parse import DockerfileParser
from jsonschema import Draft202012Validator

from dsmops.cli.app import app
from dsmops.user_settings import KEYS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "containers"
DOCKERFILE = FOLDER / "Dockerfile"

TEXTS = {"type": "array", "items": {"type": "string"}}
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string", "pattern": r"^[a-z/-]+:[\w.${}:-]+$"},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "context": {"type": "string"},
                "dockerfile": {"type": "string"},
                "args": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "command": TEXTS,
        "environment": {"type": "object", "additionalProperties": {"type": "string"}},
        # Reached from this machine only: a proxy with TLS belongs in front.
        "ports": {
            "type": "array",
            "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"},
        },
        "volumes": TEXTS,
        "depends_on": {"type": ["array", "object"]},
        "shm_size": {"type": "string"},
        "read_only": {"type": "boolean"},
        "tmpfs": TEXTS,
        "cap_drop": TEXTS,
        "security_opt": TEXTS,
        "restart": {"enum": ["unless-stopped"]},
        "stop_grace_period": {"type": "string"},
        "deploy": {"type": "object"},
    },
}
COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "properties": {
        "name": {"type": "string"},
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object", "additionalProperties": {"type": "null"}},
    },
}
"""The keys of the compose specification that these files use."""


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their values."""
    parser = DockerfileParser(fileobj=BytesIO(DOCKERFILE.read_bytes()))
    return [
        (each["instruction"], each["value"])
        for each in parser.structure
        if each["instruction"] != "COMMENT"
    ]


def last_stage() -> dict[str, str]:
    """Return the instructions of the image itself; of several of a kind the last."""
    every = instructions()
    start = max(index for index, (name, _) in enumerate(every) if name == "FROM")
    return dict(every[start:])


def read_yaml(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def test_two_slim_stages_and_a_build_argument_for_torch() -> None:
    """What builds the image does not stay in it."""
    stages = [value for name, value in instructions() if name == "FROM"]
    assert len(stages) == 2
    assert all("slim" in stage for stage in stages)
    assert ("ARG", "TORCH_BACKEND=cpu") in instructions()
    assert any('--torch-backend "${TORCH_BACKEND}"' in value for _, value in instructions())


def test_it_runs_as_a_user_without_rights() -> None:
    """By number, so that a cluster can see that it is not root."""
    names = [name for name, _ in instructions()]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last_stage()["USER"])
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_what_it_copies_is_here_and_not_ignored() -> None:
    """The ignore file lets exactly these through."""
    sources = {
        word
        for name, value in instructions()
        if name == "COPY" and "--from" not in value
        for word in value.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in sources)
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == sources


def test_its_command_is_one() -> None:
    """`worker` has the options that the image and the compose files give it."""
    root = typer.main.get_group(app)
    command = root.get_command(root.make_context("dsmops", [], resilient_parsing=True), "worker")
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    lines = [json.loads(last_stage()["CMD"])]
    lines += [read_yaml(name)["services"]["worker"]["command"] for name in COMPOSE_FILES]
    for words in lines:
        assert words[0] == "worker"
        assert {word for word in words if word.startswith("--")} <= known
    variables = re.findall(r"\bDSMOPS_\w+", last_stage()["ENV"])
    assert variables
    assert set(variables) <= set(KEYS.values())


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server whose `/readyz` answers with this status; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_is_what_readyz_says(status: int, code: int) -> None:
    """It runs unchanged, but on another port. The image has no curl."""
    text = last_stage()["HEALTHCHECK"]
    program, *words = json.loads(text[text.index("[") :])
    assert program == "python"
    with answering(status) as port:
        own = [word.replace(":8080/", f":{port}/") for word in words]
        done = subprocess.run([sys.executable, *own], capture_output=True, check=False)
    assert done.returncode == code
    own = [word.replace(":8080/", f":{port}/") for word in words]
    assert subprocess.run([sys.executable, *own], capture_output=True, check=False).returncode == 1


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed (Linux only)")
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


COMPOSE_FILES = ("compose.yaml", "compose.cuda.yaml")


@pytest.mark.parametrize("name", COMPOSE_FILES)
def test_compose_files_follow_the_specification(name: str) -> None:
    """Known keys only, images with a version, ports on loopback."""
    assert list(Draft202012Validator(COMPOSE).iter_errors(read_yaml(name))) == []


def test_files_that_are_mounted_exist_and_volumes_are_declared() -> None:
    parsed = read_yaml("compose.yaml")
    for service in parsed["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).is_file(), source
            else:
                assert source in parsed["volumes"]
    build = parsed["services"]["worker"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert ROOT / build["dockerfile"] == DOCKERFILE
    assert {f"{key}=cpu" for key in build["args"]} <= {value for _, value in instructions()}


def test_prometheus_and_grafana_find_what_they_need() -> None:
    """The job of the alert rules, the worker's port, the rules' name, the dashboard's folder."""
    services = read_yaml("compose.yaml")["services"]
    config = read_yaml("prometheus.yml")
    (job,) = config["scrape_configs"]
    rules = (ROOT / "runbooks" / "monitoring" / "alerts.yml").read_text(encoding="utf-8")
    assert f'job="{job["job_name"]}"' in rules
    assert job["static_configs"] == [{"targets": ["worker:8080"]}]
    mounts = {mount.split(":")[1] for mount in services["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} <= mounts
    (source,) = read_yaml("grafana/datasource.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read_yaml("grafana/dashboards.yml")["providers"]
    boards = [mount for mount in services["grafana"]["volumes"] if "dashboard.json" in mount]
    assert boards[0].split(":")[1].startswith(provider["options"]["path"])


@pytest.mark.heavy
def test_it_builds_and_becomes_healthy() -> None:
    """Where Docker runs and its base image can be had."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker daemon runs here")
    build = ["docker", "build", "--quiet", "--file", str(DOCKERFILE), str(ROOT)]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    shown = subprocess.run(
        ["docker", "run", "--rm", image, "smoke-test", "--model", "tiny", "--cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
