"""Versions of what is kept beside published content. No I/O, no third-party imports."""

from __future__ import annotations

RULE_SET_VERSION = 9
"""Version of the redaction rules in `logs.rules`. Raise it with every change of what they find.

Publishing keeps it with each content that passed. It stands here so that a run without new files
imports none of the rules."""
