"""The fewest edits between two sequences, by the textbook table, to hold libraries to."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Return how many items have to be replaced, left out or put in."""
    row = list(range(len(hypothesis) + 1))
    for i, said in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(diagonal + (said != heard), row[j] + 1, row[j - 1] + 1)
    return row[-1]
