"""The pages of the runbooks as they are shipped."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from dsmops.errors import InputError
from dsmops.shipped import shipped_folder

_INDEX = "README"


@dataclass(frozen=True, slots=True)
class Page:
    """One page in Markdown. `name` is its file's, without the ending."""

    name: str
    title: str
    text: str


def list_pages() -> list[Page]:
    """Return all pages, sorted by name."""
    return [
        _page(path.stem, path.read_text("utf-8"))
        for path in sorted(shipped_folder("runbooks").glob("*.md"))
        if path.stem != _INDEX
    ]


def find_page(name: str) -> Page:
    """Return the page of this name; a folder before it, an ending and a `#heading` do not matter.

    Raises:
        InputError: there is none; the hint names the nearest.
    """
    wanted = name.partition("#")[0].rstrip("/").rpartition("/")[2].removesuffix(".md")
    pages = {page.name: page for page in list_pages()}
    if wanted in pages:
        return pages[wanted]
    near = difflib.get_close_matches(wanted, pages, n=3, cutoff=0.5)
    raise InputError(
        f"no page is called {name!r}",
        hint=f"Did you mean {' or '.join(near)}?" if near else "`dsmops runbook` lists them.",
        code="runbook.unknown",
    )


def _page(name: str, text: str) -> Page:
    first = text.partition("\n")[0]
    return Page(name, first.lstrip("# "), text)
