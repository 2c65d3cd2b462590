"""Transcribe whole recordings with an engine: prefix, prompts, audio, closing silence.

It yields words, turns and figures. Any number of recordings share the engine's slots: when one
ends, the next takes its slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, cycle, repeat
from math import ceil

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.models.conventions import END_OF_PADDING, FRAMES_PER_S, LAST_SPECIAL, PADDING
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.runtime.stt.engine import MOST_LAUNCHED_STEPS, SttEngine, SttLaunchedStep
from dsmops.worker.runtime.stt.interface import SttTokenizer
from dsmops.worker.runtime.stt.words import (
    SttWord,
    SttWordEnd,
    SttWordMachine,
    TimedWord,
    TurnDetector,
    TurnEnd,
    words_of_sequence,
)

CLOSING_SILENCE_S = 1.0
"""Silence fed beyond the text delay when the audio is over, so that the last word's end comes
(as `stt-rs` does)."""
PROMPT_GAP_FRAMES = 10
"""Silent frames between a prompt's audio and the recording (as upstream's prompt script)."""
Frame = NDArray[np.float32]


class WordTiming(StrEnum):
    """How words get their times.

    Either as moshi-server sends them, or as the script of the Python package computes them at the
    end.
    """

    SERVER = "server"
    PYTHON = "python"


RecordingEvent = SttWord | SttWordEnd | TurnEnd
"""An event of a recording as it is transcribed. Times count from its start."""


@dataclass(frozen=True, slots=True)
class SttPrompt:
    """What the model gets before the recording.

    It is text, as if the model had written it, and audio in whole frames.
    """

    text: str = ""
    frames: Sequence[Frame] = ()


@dataclass(slots=True)
class RecordingFigures:
    """What a finished recording took.

    `compute_s` counts whole steps, `share_s` of each its part among the slots that ran.
    """

    steps: int = 0
    compute_s: float = 0.0
    share_s: float = 0.0
    non_finite_steps: int = 0


_NO_PROMPT = SttPrompt()


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of one recording: text, words, ends of turns, tokens and cost.

    `text` is decoded from all its text tokens at once. `unsaid_prompt` is what was left of the
    prompt's text when the recording ended. `tokens` holds one id per step, prefix and prompt
    included.
    """

    text: str
    words: tuple[TimedWord, ...]
    turns: tuple[TurnEnd, ...]
    unsaid_prompt: str
    tokens: tuple[int, ...]
    figures: RecordingFigures


class Recording:
    """One recording on its way through an engine: what to feed next, and what the tokens mean.

    Knows no tensors.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        config: SttConfig,
        tokenizer: SttTokenizer,
        frame_samples: int,
        *,
        prompt: SttPrompt = _NO_PROMPT,
        timing: WordTiming = WordTiming.SERVER,
    ) -> None:
        """`frames` yields the recording as float32 [1920].

        It is read as the engine goes, so it may be longer than memory.
        """
        silence = np.zeros(frame_samples, dtype=np.float32)
        self._config = config
        self._tokenizer = tokenizer
        self._timing = timing
        self._silent_frames = ceil(config.silence_prefix_s * FRAMES_PER_S)
        self._prompt_frames = len(prompt.frames) + PROMPT_GAP_FRAMES if prompt.frames else 0
        # The text of the prompt's audio is through after this many steps, its own text with the
        # last token, both but for the end of a word that has begun.
        self._prompt_steps = (
            self._silent_frames + len(prompt.frames) + config.text_delay_steps
            if prompt.frames
            else 0
        )
        self._in_prompts_word = False
        self._feed = chain(
            repeat(silence, self._silent_frames),
            prompt.frames,
            repeat(silence, self._prompt_frames - len(prompt.frames)),
            self._counted(frames),
            repeat(silence, config.text_delay_steps + ceil(CLOSING_SILENCE_S * FRAMES_PER_S)),
        )
        self._waiting = tokenizer.encode(prompt.text) if prompt.text else []
        self._machine = SttWordMachine(tokenizer, config.text_delay_steps)
        self._tokens: list[int] = []
        self._spoken: list[int] = []
        self._events: list[RecordingEvent] = []
        self._turns = TurnDetector()
        self.recording_frames = 0
        self.figures = RecordingFigures()

    def _counted(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.recording_frames += 1
            yield frame

    def next_frame(self) -> Frame | None:
        """Return the frame of the next step, None when all is fed."""
        return next(self._feed, None)

    @property
    def forced(self) -> int:
        """The prompt token that the next step may choose besides the two paddings.

        -1 when the prompt's text is through.
        """
        return self._waiting[0] if self._waiting else -1

    def take(self, token: int, pauses: Sequence[float]) -> list[RecordingEvent]:
        """Take what the step of the last frame gave, and return what it means."""
        self._tokens.append(token)
        steps = len(self._tokens)
        is_text = token not in (PADDING, END_OF_PADDING)
        of_prompt = (
            steps <= self._prompt_steps
            or token == self.forced
            or (is_text and self._in_prompts_word)
        )
        self._in_prompts_word = of_prompt and is_text
        if token == self.forced:
            del self._waiting[0]
        # No text before the delay has passed can come from the audio; moshi-server drops it too.
        hidden = of_prompt or steps < self._config.text_delay_steps
        self._spoken.append(PADDING if hidden and is_text else token)
        events = self._placed(self._machine.take(self._spoken[-1]))
        spoken = any(isinstance(event, SttWord) for event in events)
        if self._turns.take(pauses, spoken=spoken):
            events.append(TurnEnd(self._since_start_s(steps / FRAMES_PER_S)))
        self._events += events
        return events

    def close(self) -> list[RecordingEvent]:
        """Return what was still open when the audio ended."""
        events = self._placed(self._machine.flush())
        self._events += events
        return events

    def transcript(self) -> Transcript:
        """Return the whole result; to be called after `close`."""
        return Transcript(
            text=self._tokenizer.decode([token for token in self._spoken if token > LAST_SPECIAL]),
            words=tuple(
                self._python_words() if self._timing is WordTiming.PYTHON else self._server_words()
            ),
            turns=tuple(event for event in self._events if isinstance(event, TurnEnd)),
            unsaid_prompt=self._tokenizer.decode(self._waiting),
            tokens=tuple(self._tokens),
            figures=self.figures,
        )

    def _since_start_s(self, fed_s: float) -> float:
        """Return a time on the recording's clock, from one that counts all that was fed."""
        return max(0.0, fed_s - (self._silent_frames + self._prompt_frames) / FRAMES_PER_S)

    def _placed(self, events: list[SttWord | SttWordEnd]) -> list[RecordingEvent]:
        return [
            SttWord(event.text, self._since_start_s(event.start_s))
            if isinstance(event, SttWord)
            else SttWordEnd(self._since_start_s(event.stop_s))
            for event in events
        ]

    def _server_words(self) -> list[TimedWord]:
        words: list[TimedWord] = []
        for event in self._events:
            if isinstance(event, SttWord):
                words.append(TimedWord(event.text, event.start_s, None))
            elif isinstance(event, SttWordEnd):
                words[-1] = TimedWord(words[-1].text, words[-1].start_s, event.stop_s)
        return words

    def _python_words(self) -> list[TimedWord]:
        delay_s = self._config.text_delay_steps / FRAMES_PER_S
        tokens = self._spoken[self._prompt_frames :]
        return words_of_sequence(
            tokens, self._tokenizer, prefix_frames=self._silent_frames, delay_s=delay_s
        )


@dataclass(frozen=True, slots=True)
class RecordingUpdate:
    """News of one recording: what a step gave, and whether it was its last."""

    recording: Recording
    events: list[RecordingEvent]
    finished: bool


@dataclass(slots=True)
class _Step:
    """A step that was launched.

    `running` are the recordings whose frames it took, by slot; `ended` those that end with it.
    """

    launched: SttLaunchedStep
    running: dict[int, Recording]
    ended: list[Recording] = field(default_factory=list)

    def finish(self) -> Iterator[RecordingUpdate]:
        """Wait for its end, and yield what it gave. Call it again after an interrupt."""
        output = self.launched.wait()
        tokens, finite, pauses = (
            output.text_tokens.tolist(),
            output.finite.tolist(),
            output.pause_probabilities.tolist(),
        )
        step_s = output.step_ms / 1000
        share_s = step_s / max(1, len(self.running))
        for slot in list(self.running):
            recording = self.running.pop(slot)
            figures = recording.figures
            figures.steps += 1
            figures.compute_s += step_s
            figures.share_s += share_s
            figures.non_finite_steps += not finite[slot]
            events = recording.take(tokens[slot], pauses[slot])
            if events:
                yield RecordingUpdate(recording, events, finished=False)
        while self.ended:
            yield _closed(self.ended.pop(0))


def _finish(steps: deque[_Step], *, but: int = 0) -> Iterator[RecordingUpdate]:
    """Finish the first of `steps`, all `but` so many."""
    while len(steps) > but:
        yield from steps[0].finish()
        steps.popleft()


def run_recordings(
    engine: SttEngine, recordings: Iterable[Recording], *, overlapping: bool = False
) -> Iterator[RecordingUpdate]:
    """Feed `recordings` through the engine's slots and yield news of each as it comes.

    As many run at once as there are slots. With `overlapping` a step is launched before the words
    of the last one are read, so that a CUDA device never waits for Python: news come one step
    later, and a recording takes its slot while the last words of the one before are still to come.
    While any recording has text of a prompt left, no step overlaps. The words are the same.

    Every recording is yielded once with `finished`, in the order in which they end. A recording
    whose frames raise ends the run, after the news of the steps before.
    """
    waiting = iter(recordings)
    running: dict[int, Recording] = {}
    # The device may still read the frames of the step before.
    feeds = cycle([_Feed(engine) for _ in range(MOST_LAUNCHED_STEPS)])
    steps: deque[_Step] = deque()
    try:
        while True:
            if not overlapping or any(recording.forced >= 0 for recording in running.values()):
                yield from _finish(steps)
            feed = next(feeds)
            feed.clear()
            ended = [slot for slot, recording in running.items() if not feed.take(slot, recording)]
            for closing in [running.pop(slot) for slot in ended]:
                if steps:
                    steps[-1].ended.append(closing)
                else:
                    yield _closed(closing)
            begun = []
            for slot in range(engine.batch_size):
                if slot not in running and (recording := next(waiting, None)) is not None:
                    running[slot] = recording
                    begun.append(slot)
                    feed.take(slot, recording)
            if begun:
                engine.reset(begun)
            if not running:
                yield from _finish(steps)
                return
            steps.append(_Step(feed.launch(engine), dict(running)))
            yield from _finish(steps, but=1)
    except GeneratorExit:
        raise
    except BaseException:
        yield from _finish(steps)
        raise


def _closed(recording: Recording) -> RecordingUpdate:
    return RecordingUpdate(recording, recording.close(), finished=True)


class _Feed:
    """What a step is given: a frame of each recording, its slot, and what its prompt forces."""

    def __init__(self, engine: SttEngine) -> None:
        self._pcm = engine.new_frames()
        self._exec_mask = np.zeros(engine.batch_size, np.bool_)
        self._forced = np.full(engine.batch_size, -1, np.int64)

    def clear(self) -> None:
        self._exec_mask[:] = False
        self._forced[:] = -1

    def take(self, slot: int, recording: Recording) -> bool:
        """Take the next frame of a recording; return False where it has none."""
        frame = recording.next_frame()
        if frame is None:
            return False
        self._pcm[slot] = frame
        self._exec_mask[slot] = True
        self._forced[slot] = recording.forced
        return True

    def launch(self, engine: SttEngine) -> SttLaunchedStep:
        return engine.launch(self._pcm, self._exec_mask, self._forced)
