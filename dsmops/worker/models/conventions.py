"""What all DSM models have in common: the frame rate and the special text tokens."""

from __future__ import annotations

FRAMES_PER_S = 12.5
PADDING = 3
"""Text token of a step without text."""
END_OF_PADDING = 0
"""Text token that ends a pause: a word starts after it."""
LAST_SPECIAL = 3
"""Ids up to this one carry no text."""
