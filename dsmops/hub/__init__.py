"""Where a checkpoint comes from: a path, the Hugging Face cache, `hf://`.

Importing this package is cheap; huggingface_hub is loaded only when a request has to be made.
"""

from __future__ import annotations

from dsmops.hub.resolve import (
    DownloadPlan,
    PlannedFile,
    ask_once,
    fetch,
    in_cache,
    list_files,
    plan_download,
    read_head,
)
from dsmops.hub.settings import HubSettings, Tokens, find_tokens, read_settings, server_cache
from dsmops.hub.source import FileVersion, HubFile, is_hub_source, parse_source

__all__ = [
    "DownloadPlan",
    "FileVersion",
    "HubFile",
    "HubSettings",
    "PlannedFile",
    "Tokens",
    "ask_once",
    "fetch",
    "find_tokens",
    "in_cache",
    "is_hub_source",
    "list_files",
    "parse_source",
    "plan_download",
    "read_head",
    "read_settings",
    "server_cache",
]
