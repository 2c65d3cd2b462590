"""Synthesize whole scripts with an engine of its own: sound and words as they come.

Any number of scripts share the engine's slots: when one ends, the next takes its slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from dsmops.errors import CheckpointError, InputError
from dsmops.worker.models.conventions import PADDING
from dsmops.worker.runtime.tts.interface import TtsEngineProtocol, TtsLaunchedStep, TtsRequest
from dsmops.worker.runtime.tts.machine import TtsEntry, TtsPacing
from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord, Utterance, sound


@dataclass(eq=False, slots=True)
class Script:
    """A text on its way through an engine.

    `entries` are read a few words ahead of what is said, so they may still be coming in. `share_s`
    of each step's time is its part among the slots that ran.
    """

    entries: Iterable[TtsEntry]
    request: TtsRequest
    steps: int = field(default=0, init=False)
    share_s: float = field(default=0.0, init=False)


@dataclass(frozen=True, slots=True)
class ScriptUpdate:
    """News of one script: what a step gave, and whether all is said."""

    script: Script
    events: list[TtsWord | TtsAudio]
    finished: bool


class _Running:
    """A script in its slot."""

    def __init__(self, script: Script, utterance: Utterance) -> None:
        self.script, self.utterance = script, utterance
        self._coming = iter(script.entries)

    def has_ended(self) -> bool:
        """Read as much text as the next step needs; return whether all is said."""
        utterance = self.utterance
        while not utterance.can_step and not utterance.is_closed:
            entry = next(self._coming, None)
            if entry is None:
                utterance.close()
            else:
                utterance.extend([entry])
        return utterance.has_ended


@dataclass(slots=True)
class _Step:
    """A step that was launched.

    `said` are the scripts that took it, by their slots, and the words they said in it; `ended`
    those that end with it.
    """

    launched: TtsLaunchedStep
    said: deque[tuple[int, Script, list[TtsWord]]]
    ended: deque[Script] = field(default_factory=deque)

    def finish(self) -> Iterator[ScriptUpdate]:
        """Wait for its sound, and yield what it gave. Call it again after an interrupt.

        Raises:
            CheckpointError: the model gave numbers that are not finite.
        """
        output = self.launched.wait()
        share_s = output.step_ms / 1000 / max(1, len(self.said))
        while self.said:
            slot, script, words = self.said.popleft()
            script.share_s += share_s
            if not output.finite[slot]:
                raise CheckpointError(
                    f"the model computed NaN or infinity in step {script.steps}",
                    hint="Use --dtype bf16 or f32. `dsmops verify` shows whether the file is "
                    "damaged.",
                    code="model.not_finite",
                )
            script.steps += 1
            events: list[TtsWord | TtsAudio] = [
                *words,
                *sound(output.pcm[slot] if output.valid[slot] else None),
            ]
            if events:
                yield ScriptUpdate(script, events, finished=False)
        while self.ended:
            yield ScriptUpdate(self.ended.popleft(), [], finished=True)


def _finish(steps: deque[_Step], *, but: int = 0) -> Iterator[ScriptUpdate]:
    """Finish the first of `steps`, all `but` so many."""
    while len(steps) > but:
        yield from steps[0].finish()
        steps.popleft()


def _launch(engine: TtsEngineProtocol, running: Mapping[int, _Running]) -> _Step:
    """Begin a step of these scripts, and return it once its text is known."""
    slots = list(running)
    exec_mask = np.zeros(engine.batch_size, np.bool_)
    exec_mask[slots] = True
    tokens = np.full((engine.batch_size, 2), PADDING, np.int64)
    tokens[slots] = [one.utterance.options() for one in running.values()]
    # A full step does no harm to those that do not sound yet, and costs no more with them.
    text_only = all(one.utterance.is_text_only for one in running.values())
    launched = engine.launch(exec_mask, tokens, text_only=text_only)
    said: deque[tuple[int, Script, list[TtsWord]]] = deque()
    for (slot, one), prediction in zip(
        running.items(), launched.predicted()[slots].tolist(), strict=True
    ):
        one.utterance.choose(prediction)
        said.append((slot, one.script, one.utterance.advance()))
    return _Step(launched, said)


def run_scripts(
    engine: TtsEngineProtocol,
    scripts: Iterable[Script],
    *,
    pacing: TtsPacing = TtsPacing(),  # noqa: B008 frozen
    overlapping: bool = False,
) -> Iterator[ScriptUpdate]:
    """Feed `scripts` through the engine's slots and yield news of each as it comes.

    As many run at once as there are slots. Every script is yielded once with `finished`, in the
    order in which they end. A word comes at the latest with the frame at which it ends. The same
    entries and request give the same sound, whatever the neighbours do.

    With `overlapping` a step is launched before the sound of the last one is taken, so that a CUDA
    device decodes it beside the next one: sound comes a step later, and where the entries of a
    script are still coming in, after those that the next step needs. The sound is the same.

    Raises:
        InputError: the engine cannot follow a request.
        CheckpointError: the model gave numbers that are not finite.
        DeviceLostError: the device failed.
    """
    waiting = iter(scripts)
    running: dict[int, _Running] = {}
    free = list(reversed(range(engine.batch_size)))
    steps: deque[_Step] = deque()
    try:
        while True:
            begun: list[int] = []
            while free and (script := next(waiting, None)) is not None:
                begun.append(free.pop())
                running[begun[-1]] = _Running(script, Utterance(engine.model.config, pacing))
            if begun:
                engine.reset(begun, [running[slot].script.request for slot in begun])
            ended = [slot for slot, one in running.items() if one.has_ended()]
            free += ended
            for script in [running.pop(slot).script for slot in ended]:
                if steps:
                    steps[-1].ended.append(script)
                else:
                    yield ScriptUpdate(script, [], finished=True)
            if ended:
                # What waits takes their slots before the next step.
                continue
            if not running:
                yield from _finish(steps)
                return
            steps.append(_launch(engine, running))
            yield from _finish(steps, but=1 if overlapping else 0)
    except (GeneratorExit, CheckpointError):
        raise
    except BaseException:
        yield from _finish(steps)
        raise


def run_script(
    engine: TtsEngineProtocol,
    entries: Iterable[TtsEntry],
    request: TtsRequest,
    *,
    pacing: TtsPacing = TtsPacing(),  # noqa: B008 frozen
) -> Iterator[TtsWord | TtsAudio]:
    """Yield the frames and words of one script, in order, each as soon as the model gave it.

    Raises:
        InputError: there is nothing to say, or the engine cannot follow the request.
        CheckpointError, DeviceLostError: as `run_scripts`.
    """
    script = Script(entries, request)
    for update in run_scripts(engine, [script], pacing=pacing):
        yield from update.events
    if not script.steps:
        raise InputError("the text has no words", hint="Give some text.", code="text.empty")
