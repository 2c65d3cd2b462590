"""Write the generated pages and schemas, or with `--check` fail when one is out of date.

That is runbooks/commands.md from what `--help` says, and what `tools.schemas` makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "runbooks" / "commands.md"


def command_names() -> list[str]:
    """Return the names of all commands, in the order of `dsmops --help`."""
    import typer.main

    from dsmops.cli.app import app

    root = typer.main.get_group(app)
    return root.list_commands(root.make_context("dsmops", [], resilient_parsing=True))


def reference() -> str:
    """Return the page."""
    from typer.testing import CliRunner

    from dsmops.cli.app import app

    parts = [
        "# Commands\n\nGenerated from `--help` by `make docs`; edit the help texts, not this"
        " page.\n"
    ]
    for name in ["", *command_names()]:
        shown = CliRunner().invoke(
            app, [*([name] if name else []), "--help"], prog_name="dsmops", terminal_width=120
        )
        title = f"dsmops {name}".strip()
        body = "\n".join(line.rstrip() for line in shown.stdout.strip("\n").split("\n"))
        parts.append(f"## {title}\n\n```text\n{body}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write what is generated, or compare it."""
    from tools import schemas

    page = reference()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page, encoding="utf-8")
        schemas.write()
        return 0
    wrong = schemas.outdated()
    if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != page:
        wrong.append(TARGET)
    for path in wrong:
        print(f"{path} is out of date; run `make docs`", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
