"""The options `--install-completion` and `--show-completion`, and what shells ask.

Typer writes the scripts and answers the shells. Here are clear errors, and the first Tab in zsh.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from dsmops.cli.main import COMPLETION
from dsmops.errors import EnvironmentMissingError

PROGRAM = "dsmops"
_SHELLS = ("bash", "zsh", "fish")


def answer_shells() -> None:
    """Make Typer answer the shell that has started this process, if one has."""
    if os.environ.get(COMPLETION):
        from typer.completion import get_completion_inspect_parameters

        # It registers the shells; the parameters that it returns are not needed.
        get_completion_inspect_parameters()


def _this_shell() -> str:
    """Return the name of the shell that runs this command.

    Raises:
        EnvironmentMissingError: it is not a shell with completion.
    """
    from shellingham import ShellDetectionFailure, detect_shell

    try:
        name = str(detect_shell()[0])
    except ShellDetectionFailure:
        name = ""
    if name not in _SHELLS:
        raise EnvironmentMissingError(
            f"no completion for the shell {name}" if name else "no shell was recognised",
            hint="Run this in bash, zsh or fish.",
            code="completion.shell",
        )
    return name


def _install(value: bool) -> None:
    if not value:
        return
    from typer.completion import install  # type: ignore[attr-defined]

    shell, path = install(_this_shell(), PROGRAM, COMPLETION)
    if shell == "zsh":
        # The first Tab of a session loads the file and must answer too, not only the second.
        with path.open("a", encoding="utf-8") as file:
            file.write('\n\n[[ -n $compstate ]] && _dsmops_completion "$@"\n')
    typer.echo(f"{shell} completion installed in {path}; it works in new shells")
    raise typer.Exit


def _show(value: bool) -> None:
    if not value:
        return
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    shell = _this_shell()
    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=COMPLETION, shell=shell))
    raise typer.Exit


InstallOpt = Annotated[
    bool,
    typer.Option(
        "--install-completion",
        is_eager=True,
        callback=_install,
        help="Install completion for this shell: bash, zsh or fish.",
    ),
]
ShowOpt = Annotated[
    bool,
    typer.Option(
        "--show-completion",
        is_eager=True,
        callback=_show,
        help="Print the completion script of this shell.",
    ),
]
