"""Facts to moshi-server TOML and back: plans, templates, lint."""

from __future__ import annotations

from dsmops.config.lint import CODES, FileFact, FileState, Finding, LintFacts, LintReport, Severity, lint
from dsmops.config.load import Config, parse_config, read_config
from dsmops.config.modules import FileRole, file_references
from dsmops.config.presets import preset_names, served_model, template_path
from dsmops.config.render import ConfigSettings, diff, generate_api_key, own_api_keys, render
from dsmops.config.schema import ServerVersion
from dsmops.config.tokenizer import count_pieces

__all__ = [
    "CODES",
    "Config",
    "ConfigSettings",
    "FileFact",
    "FileRole",
    "FileState",
    "Finding",
    "LintFacts",
    "LintReport",
    "ServerVersion",
    "Severity",
    "count_pieces",
    "diff",
    "file_references",
    "generate_api_key",
    "lint",
    "own_api_keys",
    "parse_config",
    "preset_names",
    "read_config",
    "render",
    "served_model",
    "template_path",
]
