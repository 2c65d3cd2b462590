"""Synthesize a whole script with an engine of its own: sound and words as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dsmops.errors import CheckpointError, InputError
from dsmops.worker.runtime.tts.interface import TtsEngineProtocol, TtsRequest
from dsmops.worker.runtime.tts.machine import TtsEntry, TtsPacing
from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord, Utterance

_SLOT = 0


def run_script(
    engine: TtsEngineProtocol,
    entries: Iterable[TtsEntry],
    request: TtsRequest,
    *,
    pacing: TtsPacing = TtsPacing(),  # noqa: B008 frozen
) -> Iterator[TtsWord | TtsAudio]:
    """Yield the frames and words of a script, in order, each as soon as the model gave it.

    The first slot of `engine` speaks; the others rest. `entries` are read a few words ahead of what
    is said, so they may still be coming in. A word comes at the latest with the frame at which it
    ends. The same entries and `request` give the same sound.

    Raises:
        InputError: there is nothing to say, or the engine cannot follow the request.
        CheckpointError: the model gave numbers that are not finite.
        DeviceLostError: the device failed.
    """
    utterance = Utterance(engine.model.config, pacing)
    coming = iter(entries)
    exec_mask = np.zeros(engine.batch_size, np.bool_)
    exec_mask[_SLOT] = True

    def choose(predictions: NDArray[np.int64]) -> NDArray[np.int64]:
        predictions[_SLOT] = utterance.choose(int(predictions[_SLOT]))
        return predictions

    engine.reset([_SLOT], [request])
    while True:
        while not utterance.can_step and not utterance.is_closed:
            entry = next(coming, None)
            if entry is None:
                utterance.close()
            else:
                utterance.extend([entry])
        if utterance.has_ended:
            break
        output = engine.step(exec_mask, choose, text_only=utterance.is_text_only)
        if not output.finite[_SLOT]:
            raise CheckpointError(
                f"the model computed NaN or infinity in step {utterance.steps}",
                hint="Use --dtype bf16 or f32. `dsmops verify` shows whether the file is damaged.",
                code="model.not_finite",
            )
        yield from utterance.take(output.pcm[_SLOT] if output.valid[_SLOT] else None)
    if not utterance.steps:
        raise InputError("the text has no words", hint="Give some text.", code="text.empty")
