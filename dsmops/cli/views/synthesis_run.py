"""Runs over many texts as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.cli.views.run_totals import (
    RunTotals,
    show_totals,
    skipped_notes,
    totals_notes,
    totals_of,
)
from dsmops.operations.speech.many.synthesizing import SynthesisRun
from dsmops.report import Block


def show_synthesis_run(run: SynthesisRun) -> Iterator[Block]:
    """Yield what failed, with reasons, and the totals."""
    return show_totals(_totals(run))


def synthesis_run_notes(run: SynthesisRun) -> Iterator[str]:
    """Yield what was skipped, how fast it went, and what to do where something is left."""
    yield from skipped_notes(run.skipped)
    yield from totals_notes(_totals(run), "writing files")


def _totals(run: SynthesisRun) -> RunTotals:
    return totals_of(run, "text", "synthesized", listed=run.texts, finished=run.synthesized)
