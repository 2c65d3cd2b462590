"""What `up` serves: which models, with how many streams, on which device. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsmops.config.plan import CAUTIOUS_BATCH_SIZE, ServingPlan, default_reserve_bytes
from dsmops.devices import Device, Runtime
from dsmops.dtypes import ALL_INT8, PLAIN, Quantised
from dsmops.errors import DriverMissingError, InputError
from dsmops.models import DEFAULT_STT, DEFAULT_TTS, SHIPPED, PublishedModel
from dsmops.operations.configs.planning import find_device, find_model, plan_model
from dsmops.units import counted

CPU = "cpu"
_INT8_OPTIONS = " ".join(ALL_INT8.worker_options)


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model, with its streams at once."""

    name: str
    purpose: str
    batch_size: int
    hf_repo: str
    """Empty for the model that travels with the package."""


@dataclass(frozen=True, slots=True)
class UpPlan:
    """What is served where. `device` is None for the CPU. `notes` say what was decided, and why.

    `quantised` is what the server keeps in int8.
    """

    models: tuple[PlannedModel, ...]
    device: Device | None
    notes: tuple[str, ...]
    quantised: Quantised = PLAIN


def plan_up(
    names: tuple[str, ...],
    *,
    cpu: bool,
    device: Device | None = None,
    quantised: Quantised = PLAIN,
) -> UpPlan:
    """Return what to serve for the models that were named, of which there is one for each purpose.

    Without a name that is the default speech-to-text model, and the text-to-speech model beside it
    where both fit and keep up. The shipped model needs no card. `device` is planned for instead of
    this machine's card. Without `quantised`, int8 is proposed where it lets a model fit, or doubles
    the streams of one.

    Raises:
        InputError: a name is unknown, two are for the same purpose, or a model does not fit.
        DriverMissingError: there is no usable card, and none of `cpu` and a shipped model was asked
            for.
    """
    wanted = [find_model(name) for name in dict.fromkeys(names)]
    if len({model.purpose for model in wanted}) < len(wanted):
        raise InputError(
            f"{' and '.join(model.name for model in wanted)} are for the same purpose",
            hint="Name one speech-to-text and one text-to-speech model at most.",
            code="up.models",
        )
    if any(model.name in SHIPPED for model in wanted):
        return replace(_shipped(wanted), quantised=quantised)
    if cpu:
        return replace(_on_cpu(wanted or [DEFAULT_STT]), quantised=quantised)
    try:
        card = device or find_device(None, None)
    except DriverMissingError as exc:
        raise DriverMissingError(
            exc.message,
            hint="`dsmops up --model tiny` needs no card and no network, `dsmops up --cpu` no card;"
            " `dsmops check-gpu` shows what is wrong with a card.",
            code=exc.code,
        ) from exc
    plan = _on_card(wanted, card, quantised)
    proposal = () if quantised.has_int8 else _proposal(plan, wanted, card)
    return replace(plan, quantised=quantised, notes=(*plan.notes, *proposal))


def _shipped(wanted: list[PublishedModel]) -> UpPlan:
    if len(wanted) > 1:
        raise InputError(
            "the model tiny comes with its own text-to-speech model",
            hint="Name tiny alone.",
            code="up.models",
        )
    model = wanted[0]
    speaker = PlannedModel(f"{model.name}-tts", DEFAULT_TTS.purpose, CAUTIOUS_BATCH_SIZE, "")
    return UpPlan(
        (PlannedModel(model.name, model.purpose, model.batch_size, ""), speaker),
        None,
        ("the models of the package run on the CPU: 2,000 English words, no download",),
    )


def _on_cpu(wanted: list[PublishedModel]) -> UpPlan:
    return UpPlan(
        tuple(
            PlannedModel(
                model.name,
                model.purpose,
                min(model.batch_size, CAUTIOUS_BATCH_SIZE),
                model.hf_repo,
            )
            for model in wanted
        ),
        None,
        ("a published model on a CPU is slower than real time on most machines",),
    )


def _on_card(wanted: list[PublishedModel], card: Device, quantised: Quantised) -> UpPlan:
    if wanted:
        batch_sizes = _together(wanted, card, quantised)
        if batch_sizes is None:
            names = " and ".join(model.name for model in wanted)
            fits_in_int8 = not quantised.has_int8 and _together(wanted, card, ALL_INT8)
            raise InputError(
                f"{names} {'do' if len(wanted) > 1 else 'does'} not fit on {card.label}",
                hint=f"In int8 it does: `{_in_int8(wanted)}`."
                if fits_in_int8
                else "`dsmops plan --runtime embedded --model NAME` shows what does.",
                code="up.does_not_fit",
            )
        return _planned(wanted, batch_sizes, card)
    both: list[PublishedModel] = [DEFAULT_STT, DEFAULT_TTS]
    batch_sizes = _together(both, card, quantised)
    if batch_sizes is not None:
        return _planned(both, batch_sizes, card, f"{card.label} carries both models")
    alone = _on_card([DEFAULT_STT], card, quantised)
    note = f"{DEFAULT_TTS.name} is omitted: {card.label} does not carry both models in time"
    return UpPlan(alone.models, card, (*alone.notes, note))


def _proposal(plan: UpPlan, wanted: list[PublishedModel], card: Device) -> Iterator[str]:
    """Say where int8 carries another model, or at least doubles the streams of one."""
    in_int8 = _on_card(wanted, card, ALL_INT8)
    plain = {model.name: model.batch_size for model in plan.models}
    if any(model.batch_size >= 2 * plain.get(model.name, 0) for model in in_int8.models):
        streams = " and ".join(
            f"{counted(model.batch_size, 'stream')} of {model.name}" for model in in_int8.models
        )
        yield f"`{_in_int8(wanted)}` would have {streams}"


def _in_int8(wanted: list[PublishedModel]) -> str:
    """Return the command that serves what was asked for in int8."""
    options = "".join(f" --model {model.name}" for model in wanted)
    return f"dsmops up{options} {_INT8_OPTIONS}"


def _together(models: list[PublishedModel], card: Device, quantised: Quantised) -> list[int] | None:
    """Return the batch sizes of models that share a card, None where they do not fit.

    Text to speech gets its memory first. Their steps take turns on the card, so a step of each must
    fit into the time of a frame together: the batches are halved until they do.
    """
    share = 1
    while plans := _plans(models, card, share, quantised):
        batch_sizes = {plan.model: plan.asked.batch_size for plan in plans if plan.asked}
        steps_ms = [plan.asked.step_ms or 0.0 for plan in plans if plan.asked]
        if sum(steps_ms) <= min(plan.step_budget_ms for plan in plans):
            return [batch_sizes[model.name] for model in models]
        if all(size == 1 for size in batch_sizes.values()):
            return None
        share *= 2
    return None


def _plans(
    models: list[PublishedModel], card: Device, share: int, quantised: Quantised
) -> list[ServingPlan] | None:
    """Return the plans with the published batch sizes divided by `share`."""
    plans: list[ServingPlan] = []
    reserve_bytes = default_reserve_bytes(card)
    for model in sorted(models, key=lambda model: model.purpose == DEFAULT_STT.purpose):
        largest = plan_model(
            model,
            card,
            runtime=Runtime.EMBEDDED,
            reserve_bytes=reserve_bytes,
            quantised=quantised,
        )
        if not largest.fits:
            return None
        plan = plan_model(
            model,
            card,
            runtime=Runtime.EMBEDDED,
            reserve_bytes=reserve_bytes,
            asked_batch_size=max(1, min(largest.batch_size, model.batch_size) // share),
            quantised=quantised,
        )
        if plan.asked is None:
            return None
        plans.append(plan)
        reserve_bytes += plan.asked.memory.total_bytes
    return plans


def _planned(
    models: list[PublishedModel], batch_sizes: list[int], card: Device, *notes: str
) -> UpPlan:
    return UpPlan(
        tuple(
            PlannedModel(model.name, model.purpose, batch_size, model.hf_repo)
            for model, batch_size in zip(models, batch_sizes, strict=True)
        ),
        card,
        notes,
    )
