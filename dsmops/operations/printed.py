"""JSON objects in what a program printed, between lines of other kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_MOST_TRIES = 100


def printed_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the complete JSON objects in `text`, in their order, whatever stands around them.

    The first hundred braces that open nothing of the kind are passed over.
    """
    decoder, place = json.JSONDecoder(), 0
    for _ in range(_MOST_TRIES):
        place = text.find("{", place)
        if place < 0:
            return
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield found
