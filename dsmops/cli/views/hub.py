"""What a download will cost, as people read it before it starts."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.hub import DownloadPlan
from dsmops.units import counted, size


def download_lines(plan: DownloadPlan) -> Iterator[str]:
    """Yield one line with the totals and one per file; nothing when everything is in the cache."""
    lacking = [planned for planned in plan.files if planned.path is None]
    if not lacking:
        return
    yield f"Downloading {counted(len(lacking), 'file')}, {size(plan.fetch_bytes)}, into {plan.settings.cache}"
    for planned in lacking:
        whole, rest = planned.version.size_bytes, planned.fetch_bytes
        had = "" if rest == whole else f", of which {size(whole - rest)} are here already"
        yield f"  {planned.file}  {size(whole)}{had}"
