"""`verify --numerics`: whether a converted language model computes what its original computes.

The original is computed in float32, the converted file in the dtype that it holds, one after the
other, so that only one is in memory, and on the same codes of the same recording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsmops.audio import Samples, frames, open_audio
from dsmops.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from dsmops.dtypes import PLAIN, ComputeDType, Quant, Quantised, StorageDType
from dsmops.errors import GpuMemoryError, InputError, SourceError
from dsmops.extras import require_worker
from dsmops.hub import is_hub_source, parse_source
from dsmops.operations.models.stt import SttSource, find_stt
from dsmops.operations.speech.numerics_verdict import NumericsReport, Setting, judge
from dsmops.operations.speech.numerics_words import read_reference
from dsmops.progress import SILENT, Progress
from dsmops.units import counted
from dsmops.worker.models.conventions import FRAMES_PER_S

if TYPE_CHECKING:
    from dsmops.worker.runtime.numerics import SttLmRun
    from dsmops.worker.runtime.stt.transcription import Recording

LONGEST_S = 600.0
"""Seconds of a recording that are used. The longest window of a published model, 60 s, is filled
ten times by then."""

_CONFIG_FILE = "config.json"
Audio = Path | Literal["-"]


@dataclass(frozen=True, slots=True)
class NumericsPlan:
    """Which recording two files transcribe.

    `target` is computed in `dtype`; `kept_f32` of its tensors are stored in F32 nevertheless.

    `same_layout`: both hold tensors of the same names and shapes. Where they do not, there is
    nothing to compare. `has_int8`: layers of the target are in int8 in the file itself. `reference`
    is what is spoken in the recording, normalised, if it is known.
    """

    audio: Audio
    source: Path
    target: Path
    dtype: ComputeDType
    kept_f32: int
    same_layout: bool
    stt: SttSource
    reference: str | None = None
    has_int8: bool = False


def plan_numerics(
    source: str,
    files: tuple[Path, Path],
    audio: Audio,
    *,
    model: str | None = None,
    reference: Path | None = None,
    progress: Progress = SILENT,
) -> NumericsPlan:
    """Find all that is needed to compare `files`, original and converted.

    So anything missing or wrong is reported before the work. `source` is the original as the user
    named it: without `model` (see `find_stt`), the config, tokenizer and Mimi beside it are taken.
    `reference` is a file with what is spoken.

    Raises:
        ExtraMissingError: the worker's libraries are not installed.
        InputError, SourceError: the recording, the model or a checkpoint cannot be used for this.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or
            refused.
    """
    require_worker("comparing numerics")
    if audio != "-":
        with open_audio(audio):
            pass
    text = None if reference is None else read_reference(reference)
    before, after = (open_checkpoint(path) for path in files)
    original, converted = _only_file(before), _only_file(after)
    weights = _weights(after)
    dtype = _main_dtype(converted, weights)
    return NumericsPlan(
        audio=audio,
        source=original,
        target=converted,
        dtype=dtype,
        kept_f32=0
        if dtype is ComputeDType.F32
        else sum(tensor.dtype is StorageDType.F32 for tensor in weights.values()),
        same_layout=_shapes(_weights(before)) == _shapes(weights),
        has_int8=any(tensor.dtype == "I8" for tensor in weights.values()),
        stt=_find_model(source, model, original, progress),
        reference=text,
    )


def compare_numerics(
    plan: NumericsPlan,
    *,
    cpu: bool = False,
    quantised: Quantised = PLAIN,
    progress: Progress = SILENT,
) -> NumericsReport:
    """Transcribe the recording with both models and compare them.

    `quantised` says what of the target is in int8.

    They run on CUDA device 0 where there is one and `cpu` is not set.

    Raises:
        InputError, CheckpointError: the recording is damaged, or a file is not what the model's
        config describes. GpuMemoryError, DeviceLostError: the device has no room, or failed.
    """
    from dsmops.worker.models.device import best_device
    from dsmops.worker.models.stt import load_companions, load_lm
    from dsmops.worker.runtime.numerics import compare_logits, encode_frames, run_stt_lm
    from dsmops.worker.runtime.stt.transcription import Recording

    device, config = best_device(cpu=cpu), plan.stt.config

    def follow(
        file: Path,
        dtype: ComputeDType,
        reference: SttLmRun | None = None,
        stored: Quantised = PLAIN,
    ) -> SttLmRun:
        lm = load_lm(file, config, device=device, dtype=dtype, quantised=stored)
        progress.start(f"Computing {file.name} in {dtype}", len(codes), "steps")
        try:
            return run_stt_lm(lm, codes, reference=reference, progress=progress)
        finally:
            progress.finish()

    try:
        with open_audio(plan.audio) as audio:
            tokenizer, mimi = load_companions(plan.stt.files, config, device=device)
            used = islice(frames(audio.blocks()), int(LONGEST_S * FRAMES_PER_S))
            recording = Recording(used, config, tokenizer, mimi.config.frame_samples)
            codes = encode_frames(mimi, _fed(recording), config.lm.audio_codebooks, device=device)
        del mimi
        original = follow(plan.source, ComputeDType.F32)
        converted = follow(plan.target, plan.dtype, original, quantised)
    except GpuMemoryError as exc:
        hint = "Add --cpu, or free the card: `nvidia-smi` shows what uses it."
        raise GpuMemoryError(exc.message, hint=hint) from exc
    audio_s = recording.recording_frames / FRAMES_PER_S
    return judge(
        Setting(
            audio.name,
            audio_s,
            ceil(config.silence_prefix_s * FRAMES_PER_S),
            plan.stt.name,
            str(device),
        ),
        (plan.source, plan.target),
        plan.dtype,
        (original, converted),
        compare_logits(original, converted),
        tokenizer,
        reference=plan.reference,
        notes=tuple(_notes(plan, audio_s, quantised, on_cpu=device.type == "cpu")),
    )


def _fed(recording: Recording) -> Iterator[Samples]:
    while (frame := recording.next_frame()) is not None:
        yield frame


def _weights(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """Return the tensors of a checkpoint, without the scales of its int8 matrices."""
    tensors = checkpoint.tensors
    scales = {f"{name}_scb" for name, tensor in tensors.items() if tensor.dtype == "I8"}
    return {name: tensor for name, tensor in tensors.items() if name not in scales}


def _shapes(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _only_file(checkpoint: Checkpoint) -> Path:
    if len(checkpoint.shards) > 1:
        raise InputError(
            f"{checkpoint.path} has {len(checkpoint.shards)} shards; the embedded worker runs "
            "single files only",
            hint="Omit --numerics, or compare a checkpoint of one file.",
            code="checkpoint.sharded",
        )
    return checkpoint.shards[0].path


def _main_dtype(path: Path, weights: Mapping[str, TensorInfo]) -> ComputeDType:
    """Return the dtype of most weights that are not in int8: all are cast to it when served."""
    elements: Counter[StorageDType] = Counter()
    for tensor in weights.values():
        if tensor.dtype != "I8":
            elements[tensor.storage_dtype] += tensor.elements
    stored = max(elements, key=elements.__getitem__, default=None)
    if stored is None or stored not in {dtype.storage for dtype in ComputeDType}:
        raise InputError(
            f"{path} holds no weights in f16, bf16 or f32",
            hint=f"`dsmops inspect {path}` shows what it holds.",
        )
    return ComputeDType(stored.value)


def _find_model(source: str, model: str | None, lm: Path, progress: Progress) -> SttSource:
    """Return the model that `model` names, else the one whose config lies beside `source`.

    Its weights are `lm`.
    """
    if model is not None:
        return find_stt(model, lm=lm, progress=progress)
    path = Path(source).expanduser()
    folder = path if path.is_dir() else path.parent
    config = (
        parse_source(source).sibling(_CONFIG_FILE)
        if is_hub_source(source)
        else folder / _CONFIG_FILE
    )
    try:
        return find_stt(str(config), lm=lm, progress=progress)
    except SourceError as exc:
        raise SourceError(
            f"no config beside {source} says how to run the model: {exc.message}",
            hint=(
                "Add --model NAME, hf://org/repo, a folder with a config.json, or a moshi-server "
                ".toml."
            ),
            code="model.unknown",
        ) from exc


def _notes(
    plan: NumericsPlan, audio_s: float, quantised: Quantised, *, on_cpu: bool
) -> Iterator[str]:
    in_file = Quant.INT8 if plan.has_int8 and quantised.weights is None else None
    parts = {"weights": quantised.weights or in_file, "keys and values": quantised.kv}
    for name, quant in parts.items():
        if quant is Quant.INT8:
            yield f"The {name} of the target are in int8, those of the source in f32."
    if on_cpu and plan.dtype is not ComputeDType.F32:
        yield (
            f"On a CPU, {plan.dtype} products are summed in float32 and rounded once; a GPU "
            f"may sum parts in between in {plan.dtype}. "
            "Overflow shows in both."
        )
    if plan.kept_f32:
        tensors = counted(plan.kept_f32, "tensor")
        yield (
            f"Stored in F32 but computed in {plan.dtype} like the rest, as moshi-server and the "
            f"embedded worker do: {tensors}."
        )
    if audio_s >= LONGEST_S:
        yield f"No more than the first {LONGEST_S:g} s of a recording are used."
