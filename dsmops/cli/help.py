"""The groups of commands in `dsmops --help`, and the plain text that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import getdoc
from typing import Any, ClassVar, cast

from typer.core import TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

PREPARE = "Prepare"
SERVE = "Serve and speak"
CHECK = "Check"
LOGS = "Logs"
GROUPS = (PREPARE, SERVE, CHECK, LOGS)
"""Values of `rich_help_panel` of the commands, in the order of the help."""

MOST_SUMMARY_CHARS = 60
"""What is left of 80 columns beside the longest name. The first line of a command's docstring is
its summary."""


class Commands(Mapping[str, Any]):
    """The commands of an application by name, each built when it is first asked for.

    Typer would build all of them at each start. That takes longer than all imports together.
    """

    def __init__(self, registered: Iterable[CommandInfo]) -> None:
        self._registered = {str(info.name): info for info in registered}
        self._built: dict[str, Any] = {}

    def group(self, name: str) -> int:
        """Return the place of a command's group in `GROUPS`."""
        return GROUPS.index(str(self._registered[name].rich_help_panel))

    def summary(self, name: str) -> str:
        """Return the first line of a command's help."""
        return (getdoc(self._registered[name].callback) or "").partition("\n")[0]

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = get_command_from_info(
                self._registered[name], pretty_exceptions_short=False, rich_markup_mode=None
            )
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._registered)

    def __len__(self) -> int:
        return len(self._registered)


class GroupedHelp(TyperGroup):
    """A root command that lists its commands under `GROUPS`, and builds only the one that runs.

    Typer groups commands only with rich, which makes `--help` start 70 ms later.
    """

    registered: ClassVar[Sequence[CommandInfo]]
    """Its commands, set by the application."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._listed = Commands(self.registered)
        self.commands = cast(Any, self._listed)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 as in the base class
        """Return the names in the order of the help: by group, then as registered."""
        return sorted(self._listed, key=self._listed.group)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group, all with the same width of the first column."""
        names = self.list_commands(ctx)
        width = max(map(len, names))
        for place, group in enumerate(GROUPS):
            rows = [
                (name.ljust(width), self._listed.summary(name))
                for name in names
                if self._listed.group(name) == place
            ]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)
