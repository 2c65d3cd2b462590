"""The values that the shell completes behind an option or for an argument.

Options whose type is an enum or a `Literal` need nothing here. Each function runs only when a shell
asks, and returns all values; Typer keeps those that begin like the word.
"""

from __future__ import annotations


def compute_dtypes() -> list[str]:
    """Return the dtypes that models compute in."""
    from dsmops.dtypes import ComputeDType

    return [dtype.value.lower() for dtype in ComputeDType]


def conversion_dtypes() -> list[str]:
    """Return the dtypes that `convert` makes."""
    from dsmops.dtypes import CONVERSION_TARGETS

    return [target.value.lower() for target in CONVERSION_TARGETS]


def models() -> list[str]:
    """Return the names of the published models and of those in the package."""
    from dsmops.models import KNOWN
    from dsmops.shipped import shipped_configs

    return list(dict.fromkeys([*KNOWN, *shipped_configs()]))


def cards() -> list[str]:
    """Return capabilities and the cards of the catalogue, as `--simulate` takes them."""
    from dsmops.gpu.catalogue import CARDS, short_names

    capabilities = {card.compute_capability.sm for card in CARDS}
    return [*sorted(capabilities), *short_names()]


def wrappers() -> list[str]:
    """Return what a collector may have put around log lines."""
    from dsmops.logs import WRAPPERS

    return ["auto", "none", *WRAPPERS]


def log_levels() -> list[str]:
    """Return the levels that `format-log` filters by."""
    return ["trace", "debug", "info", "warn", "error"]


def server_log_levels() -> list[str]:
    """Return the levels of `worker --log`."""
    return ["off", *log_levels()]


def checksums() -> list[str]:
    """Return the checksums that object stores know."""
    from typing import get_args

    from dsmops.publish.store import ChecksumMode

    return list(get_args(ChecksumMode))


def backends() -> list[str]:
    """Return what `smoke-test` can start."""
    return ["embedded", "moshi-server"]


def quants() -> list[str]:
    """Return the quantisations of `export`, of all runtimes."""
    from dsmops.checkpoint.export import QUANTS

    return list(dict.fromkeys(quant for quants in QUANTS.values() for quant in quants))


def pages() -> list[str]:
    """Return the names of the runbooks."""
    from dsmops.operations.runbooks import list_pages

    return [page.name for page in list_pages()]


def documents() -> list[str]:
    """Return the names of the JSON documents."""
    from dsmops.operations.schemas import list_schemas

    return [one.name for one in list_schemas().schemas]
