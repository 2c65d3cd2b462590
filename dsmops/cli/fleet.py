"""`fleet`: a check on many machines."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from dsmops.cli.arguments import RayCommand, require_other_file
from dsmops.cli.help import CHECK
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt, RayOpt
from dsmops.report import Reporter


def fleet(
    check: Annotated[
        Literal["check-gpu", "doctor", "smoke-test"],
        typer.Argument(metavar="CHECK", help="check-gpu, doctor or smoke-test."),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTIONS...]", help="Options of the check.", show_default=False),
    ] = None,
    hosts: Annotated[
        Path | None,
        typer.Option(
            "--hosts",
            metavar="FILE",
            readable=False,
            help="By ssh: a file with one host a line.",
        ),
    ] = None,
    ray: RayOpt = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="By srun: the allocation's nodes, or all.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="S", min=0.1, max=86_400, help="Seconds for each node."),
    ] = 120.0,
    program: Annotated[
        str,
        typer.Option("--program", metavar="COMMAND", help="dsmops on nodes of --hosts, --slurm."),
    ] = "dsmops",
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", metavar="FILE", readable=False, help="Also write the verdicts as JUnit XML."
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Run a check on many machines and compare them.

    By ssh and srun 128 nodes are asked at a time, on a Ray cluster all at once. A node that hangs,
    is dead or refuses is named, and the others do not wait for it. The exit code is the highest of
    the nodes: 6 for one that gave no answer, else that of the check there. --json has the document
    of every node.

    ssh uses your own config, keys and agent and never asks for a password. On a Ray cluster a
    smoke test reserves a card.

    \b
    Examples:
      dsmops fleet check-gpu --hosts hosts.txt
      dsmops fleet doctor --ray --junit fleet.xml -- --offline
      dsmops fleet smoke-test --slurm --timeout 600 -- --model tiny
      dsmops fleet check-gpu --hosts hosts.txt --program /opt/dsmops/bin/dsmops
    """
    from dsmops.cli.views.fleet import fleet_xml, show_fleet
    from dsmops.files import replace_atomically
    from dsmops.operations.fleet import (
        Fleet,
        RayNodes,
        SlurmNodes,
        SshHosts,
        check_fleet,
        read_hosts,
    )

    if sum((hosts is not None, ray is not None, slurm)) != 1:
        raise typer.BadParameter("name one of --hosts FILE, --ray and --slurm")
    require_other_file("--junit", junit, {"hosts file": hosts})
    try:
        words = shlex.split(program)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--program") from exc
    if not words:
        raise typer.BadParameter("it is empty", param_hint="--program")
    out = Reporter.open("fleet", json=json, quiet=quiet, debug=debug)
    with ExitStack() as stack:
        # Before the work, so that a target that cannot be written fails at once.
        file = stack.enter_context(replace_atomically(junit)) if junit is not None else None
        nodes: Fleet
        if hosts is not None:
            nodes = SshHosts(read_hosts(hosts), words)
        elif ray is not None:
            nodes = stack.enter_context(RayNodes(ray))
        else:
            nodes = SlurmNodes(words)
        report = check_fleet(
            nodes, check, options or [], timeout_s=timeout, progress=out.progress()
        )
        out.result(report, show_fleet(report))
        if file is not None:
            file.write(fleet_xml(report).encode())
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("fleet", cls=RayCommand, rich_help_panel=CHECK)(fleet)
