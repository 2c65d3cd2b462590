"""The groups of commands in `dsmops --help`, and the plain text that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

if TYPE_CHECKING:
    import typer

PREPARE = "Prepare"
SERVE = "Serve and speak"
CHECK = "Check"
LOGS = "Logs"
GROUPS = (PREPARE, SERVE, CHECK, LOGS)
"""Values of `rich_help_panel` of the commands, in the order of the help."""

MOST_SUMMARY_CHARS = 60
"""What is left of 80 columns beside the longest name. The first line of a command's docstring is
its summary."""


class GroupedHelp(TyperGroup):
    """A root command that lists its commands under `GROUPS`.

    Typer groups commands only with rich, which makes `--help` start 70 ms later.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help: by group, then as registered."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: GROUPS.index(self._group(ctx, name)))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group, all with the same width of the first column."""
        names = self.list_commands(ctx)
        width = max(map(len, names))
        for group in GROUPS:
            rows = [
                (name.ljust(width), self._command(ctx, name).get_short_help_str(100))
                for name in names
                if self._group(ctx, name) == group
            ]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)

    def _command(self, ctx: Any, name: str) -> Any:
        return self.get_command(ctx, name)

    def _group(self, ctx: typer.Context, name: str) -> str:
        group: str = self._command(ctx, name).rich_help_panel
        return group
