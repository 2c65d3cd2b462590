"""Resolve path-like values as the server does.

`$NAME` is replaced, `hf://` looked up, everything else taken unchanged. Nothing is read here; the
environment is an argument.

Source: moshi-server `utils.rs` (`resolve_or_download`, `replace_env_vars`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

HUB = "hf://"
HUB_SNAPSHOT = "hf-snapshot://"

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_BRACED = re.compile(r"\$\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A value after the server's own expansion.

    `text` is what the server uses: a path, or for `is_hub` the unchanged `hf://` name, of which it
    takes the file from revision `main`. `unset` names the variables that are not set here; each
    became an empty string. `braced` holds `${NAME}` as written, `tilde` says whether the path
    begins with `~`: the server expands neither, and looks for files of that very name.
    """

    text: str
    is_hub: bool = False
    unset: tuple[str, ...] = ()
    braced: tuple[str, ...] = ()
    tilde: bool = False


def resolve(value: str, environ: Mapping[str, str]) -> Resolved:
    """Return what the server makes of a path-like value in this environment."""
    if value.startswith(HUB):
        return Resolved(value, is_hub=True)
    names = _VARIABLE.findall(value)
    text = _VARIABLE.sub(lambda match: environ.get(match[1], ""), value)
    return Resolved(
        text,
        unset=tuple(dict.fromkeys(name for name in names if name not in environ)),
        braced=tuple(_BRACED.findall(value)),
        tilde=text == "~" or text.startswith("~/"),
    )


def source_problem(value: str) -> str:
    """Return why the server cannot use a value as the name of a file, or an empty string.

    The reason is a wrong `hf://` or a misplaced `hf-snapshot://`.
    """
    if value.startswith(HUB_SNAPSHOT):
        return "works in voice_folder of a Py module only; here it is a path that does not exist"
    if not value.startswith(HUB):
        return ""
    segments = value.removeprefix(HUB).split("/")
    if len(segments) < 3 or not all(segments):
        return "needs an organisation, a repository and a file: hf://ORG/REPO/FILE"
    if "@" in segments[1]:
        return (
            "names a revision, and the server knows none: it looks for a repository of that very"
            " name"
        )
    return ""
