"""The question that people keep logs for: did it keep up, and would more fit?

A log has the batch size, the streams and the step times. What a card and a model add, `plan` says:
how many streams would fit, and what the slots cost that were never in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from dsmops.config.timing import BUDGET_MS
from dsmops.devices import Device, Runtime
from dsmops.dtypes import ComputeDType
from dsmops.models import DEFAULT_STT, DEFAULT_TTS, FRAME_MS, KNOWN, PublishedModel
from dsmops.operations.log_report.result import CapacityPlan, LogReport
from dsmops.units import counted, size

_FEW_STEPS = 100


@dataclass(frozen=True, slots=True)
class Served:
    """What is known of the server beside its log. What is None is not.

    `origin` says where it is from, for people.
    """

    model: PublishedModel | None = None
    device: Device | None = None
    dtype: ComputeDType | None = None
    runtime: Runtime | None = None
    batch_size: int | None = None
    context: int | None = None
    n_q: int | None = None
    origin: tuple[str, ...] = ()


NOTHING = Served()


def with_capacity(
    report: LogReport, known: Served, engines: Mapping[str, tuple[str, str]], *, is_worker: bool
) -> LogReport:
    """Return the report with the answer, what it is computed from, and what is unknown.

    `engines` are model and dtype by module, where the log has them. `is_worker` is for a log of
    `dsmops worker`.
    """
    answer, unknown = _kept_up(report)
    based_on = [_log_basis(report)]
    known, guess = _completed(report, known, engines, is_worker=is_worker)
    plan = None
    if known.model is None:
        unknown.append(
            "Which model, card and dtype: the log does not name them. Name them with --gpu and"
            " --config, and the answer has how many streams fit, and what idle slots cost."
        )
    else:
        # Imported only when a model is known: planning is slow to import.
        from dsmops.operations.log_report.planned import capacity_plan

        plan = capacity_plan(known, known.model, _batch(report) or known.batch_size, _used(report))
        based_on += known.origin
        answer += _planned(report, plan)
        if guess:
            unknown.append(guess)
        if plan.device is None:
            unknown.append("How many streams would fit: name the card with --gpu.")
        else:
            based_on.append(f"`dsmops plan`: {plan.basis or 'no step times for this card'}")
            unknown.append(
                "Whether the server ran on that card, and what else did: the log does not say."
            )
        logged = _batch(report)
        if known.batch_size and logged and known.batch_size != logged:
            unknown.append(
                f"Why the config says batch_size {known.batch_size} and the log {logged}: one of"
                " them is of another server, or older."
            )
    if report.tts.asked or report.tts.opened:
        if report.tts.first_audio_ms is None:
            unknown.append("How long the first sound took: moshi-server does not log it.")
        unknown.append("Text-to-speech steps: servers do not log them.")
    return replace(
        report,
        capacity=tuple(answer),
        unknown=tuple(unknown),
        based_on=tuple(based_on),
        plan=plan,
    )


def _log_basis(report: LogReport) -> str:
    steps = 0 if report.steps is None else report.steps.count
    starts = counted(len(report.runs), "start")
    return f"the log: {counted(steps, 'step')}, {starts}, the streams that it names"


def _batch(report: LogReport) -> int | None:
    """Return the largest number of slots that a start in the log names."""
    return max((run.batch_size for run in report.runs if run.batch_size), default=None)


def _used(report: LogReport) -> int:
    """Return how many slots were in use at once, at most."""
    return max(report.streams.most_with_data, report.streams.most_open, report.tts.most_open)


def _kept_up(report: LogReport) -> tuple[list[str], list[str]]:
    """Return what the log alone answers, and what it leaves open."""
    steps, streams = report.steps, report.streams
    unknown: list[str] = []
    meanings = {failure.name: failure.meaning for failure in report.failures}
    answer = [
        f"The server stopped serving ({run.died_of}): {meanings.get(run.died_of, '')}."
        for run in report.runs
        if run.died_of is not None
    ]
    if steps is None:
        answer.append(_no_steps(report))
        return answer, unknown
    batch = _batch(report)
    in_use = f"at most {counted(streams.most_with_data, 'stream')} had data in one step"
    if streams.most_open > streams.most_with_data:
        in_use += f", and {streams.most_open} were connected at once"
    if batch is None:
        answer.append(f"{in_use[0].upper()}{in_use[1:]}.")
        unknown.append("The batch size: the start of the server is not in the log.")
    else:
        answer.append(f"Batch {batch}: {in_use}.")
    answer.append(
        f"A step takes {steps.p50_ms:.0f} of {FRAME_MS:.0f} ms (p99 {steps.p99_ms:.0f} ms)."
    )
    if steps.count < _FEW_STEPS:
        unknown.append(f"Whether that is typical: the log has {steps.count} steps only.")
    answer.append(_verdict(report))
    if batch is not None and steps.p99_ms <= FRAME_MS:
        idle = max(0, batch - _used(report))
        if streams.refused:
            answer.append(
                f"{counted(streams.refused, 'refusal')}: all slots were taken. A larger"
                " batch_size makes each step longer; `dsmops bench` measures by how much."
            )
        elif idle:
            answer.append(
                f"{idle} of {batch} slots were never in use, and each step pays for them."
            )
    return answer, unknown


def _no_steps(report: LogReport) -> str:
    """Return why there is no answer."""
    if not report.lines:
        return "There is no line to read: the log is empty."
    if report.over_time or report.runs or report.failures or _was_asked(report):
        return "The log has no steps, so it says nothing about capacity."
    if report.since or report.until:
        return "No step, start or stream is between --since and --until."
    return "No line tells of a step, a start or a stream: is this a log of moshi-server?"


def _was_asked(report: LogReport) -> bool:
    streams, tts = report.streams, report.tts
    return any((streams.asked, streams.opened, streams.posts, tts.asked, tts.opened, tts.posts))


def _verdict(report: LogReport) -> str:
    steps = report.steps
    assert steps is not None  # noqa: S101  # the caller has looked
    if steps.p50_ms > FRAME_MS:
        return (
            "It did not keep up: a typical step takes longer than its frame. "
            "Every step pays for the whole batch, so a smaller batch_size is faster."
        )
    if steps.p99_ms > FRAME_MS:
        worst = f", and was behind by up to {report.behind[0].audio_s:g} s" if report.behind else ""
        return (
            f"It kept up most of the time: {steps.over_share:.1%} of the steps took longer than"
            f" their frame{worst}."
        )
    if steps.p99_ms > BUDGET_MS:
        return "It kept up, with less than a fifth of the time to spare: add no slots."
    return "It kept up, with time to spare."


def _completed(
    report: LogReport, known: Served, engines: Mapping[str, tuple[str, str]], *, is_worker: bool
) -> tuple[Served, str | None]:
    """Return what is known with what the log adds, and what had to be guessed for a plan."""
    known = replace(known, runtime=Runtime.EMBEDDED if is_worker else Runtime.MOSHI_SERVER)
    if known.model is not None:
        return known, None
    for name, dtype in engines.values():
        if (model := KNOWN.get(name)) is None:
            continue
        logged = None
        with suppress(ValueError):
            logged = ComputeDType.parse(dtype)
        origin = (*known.origin, f"the model {name}, which the log names")
        return replace(known, model=model, dtype=known.dtype or logged, origin=origin), None
    if known.device is None:
        return known, None
    model = DEFAULT_STT if report.steps is not None or not report.tts.opened else DEFAULT_TTS
    guess = (
        f"Whether the model is {model.name}, for which this was planned: name it with --model or"
        " --config."
    )
    return replace(known, model=model), guess


def _planned(report: LogReport, plan: CapacityPlan) -> list[str]:
    said = []
    idle = 0 if plan.batch_size is None else max(0, plan.batch_size - _used(report))
    if idle and plan.idle_bytes:
        said.append(
            f"You pay for {idle} idle slots with {size(plan.idle_bytes)} of {plan.model} in"
            f" {plan.dtype}."
        )
    if plan.device is None:
        return said
    fits = []
    if plan.time_batch_size is not None:
        fits.append(f"about {plan.time_batch_size} streams keep up at {BUDGET_MS:.0f} ms")
    if plan.memory_batch_size is not None:
        fits.append(f"{plan.memory_batch_size} slots fit in memory")
    if fits:
        said.append(f"By the plan for {plan.device} ({plan.runtime}), {' and '.join(fits)}.")
    if plan.planned_step_ms is not None and report.steps is not None:
        said.append(
            f"The plan expects {plan.planned_step_ms:.0f} ms a step at batch {plan.batch_size};"
            f" the log has {report.steps.p50_ms:.0f} ms."
        )
    return said
