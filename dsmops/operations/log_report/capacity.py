"""The question that people keep logs for: did it keep up, and would more fit?"""

from __future__ import annotations

from dsmops.config.timing import BUDGET_MS
from dsmops.models import FRAME_MS
from dsmops.operations.log_report.result import LogReport

_FEW_STEPS = 100


def capacity(report: LogReport) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the answer in sentences, and what these logs cannot say."""
    steps, streams = report.steps, report.streams
    unknown = [
        "Which model, card and dtype: the log does not name them. `dsmops plan` has the memory."
    ]
    if report.tts.asked:
        unknown.append("How long the first sound took, and text-to-speech steps: not in the log.")
    sizes = {run.batch_size for run in report.runs if run.batch_size is not None}
    meanings = {failure.name: failure.meaning for failure in report.failures}
    answer = [
        f"The server stopped serving ({run.died_of}): {meanings.get(run.died_of, '')}."
        for run in report.runs
        if run.died_of is not None
    ]
    if steps is None:
        answer.append("The log has no steps, so it says nothing about capacity.")
        return tuple(answer), tuple(unknown)
    batch = max(sizes, default=None)
    if batch is None:
        answer.append(f"At most {streams.most_with_data} streams had data in one step.")
        unknown.append("The batch size: the start of the server is not in the log.")
    else:
        answer.append(
            f"Batch {batch}: at most {streams.most_with_data} streams had data in one step."
        )
    answer.append(
        f"A step takes {steps.p50_ms:.0f} of {FRAME_MS:.0f} ms (p99 {steps.p99_ms:.0f} ms)."
    )
    if steps.count < _FEW_STEPS:
        unknown.append(f"Whether that is typical: the log has {steps.count} steps only.")
    if steps.p50_ms > FRAME_MS:
        answer.append(
            "It did not keep up: a typical step takes longer than its frame. "
            "Every step pays for the whole batch, so a smaller batch_size is faster."
        )
    elif steps.p99_ms > FRAME_MS:
        answer.append(
            f"It kept up most of the time: {steps.over_share:.1%} of the steps took longer than"
            " their frame."
        )
    elif steps.p99_ms > BUDGET_MS:
        answer.append("It kept up, with less than a fifth of the time to spare: add no slots.")
    else:
        answer.append("It kept up, with time to spare.")
    if batch is not None and steps.p99_ms <= FRAME_MS:
        idle = max(0, batch - streams.most_with_data)
        if streams.refused:
            answer.append(
                f"{streams.refused} clients were refused: all slots were taken. A larger"
                " batch_size makes each step longer; `dsmops bench` measures by how much."
            )
        elif idle:
            answer.append(
                f"{idle} of {batch} slots were never in use, and each step pays for them."
            )
    return tuple(answer), tuple(unknown)
