"""Recordings on their way through an engine: what is fed, what its tokens mean, and that the slot
makes no difference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsmops.worker.models.stt import LoadedStt
from dsmops.worker.runtime.stt.engine import SttEngine, SttLaunchedStep
from dsmops.worker.runtime.stt.interface import SttOutput
from dsmops.worker.runtime.stt.transcription import (
    CLOSING_SILENCE_S,
    PROMPT_GAP_FRAMES,
    Frame,
    Recording,
    RecordingEvent,
    SttPrompt,
    Transcript,
    WordTiming,
    run_recordings,
)
from dsmops.worker.runtime.stt.words import (
    SttWord,
    SttWordEnd,
    SttWordMachine,
    TimedWord,
    TurnEnd,
    words_of_sequence,
)

FRAME = 1920
DELAY = 6
CLOSING = DELAY + ceil(CLOSING_SILENCE_S * 12.5)
BOUNDARY, PADDING = 0, 3
PIECES = {4: " to", 5: " no", 6: "ma", 7: " at", 8: " in", 9: "ner"}
PROMPT_PIECES = (7, 8, 9)
QUIET = (0.0, 0.0, 1.0, 0.0)


class Toy:
    """A tokenizer of a few pieces.

    A word that is one of them is that piece; another takes a piece per letter.
    """

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(PIECES.get(token, "") for token in ids).strip()

    def encode(self, text: str) -> list[int]:
        whole = {piece.strip(): [token] for token, piece in PIECES.items()}
        return [token for word in text.split() for token in whole.get(word, [4] * len(word))]


def noise(frames: int, seed: int = 0) -> list[Frame]:
    """Return loud and soft frames of 1920 samples."""
    rng = np.random.default_rng(seed)
    return [
        (rng.uniform(-1, 1, FRAME) * rng.choice([0.0, 0.05, 0.4])).astype(np.float32)
        for _ in range(frames)
    ]


def numbered(first: int, count: int) -> list[Frame]:
    """Return frames that differ, of one sample."""
    return [np.full(1, number, dtype=np.float32) for number in range(first, first + count)]


def told(
    recording: Recording, tokens: Sequence[int], pauses: Sequence[float] = ()
) -> list[RecordingEvent]:
    """Give `recording` its tokens, end it, and return all that it told."""
    return [
        event for token in tokens for event in recording.take(token, pauses)
    ] + recording.close()


def transcribed(
    engine: SttEngine, recordings: Sequence[Recording], *, overlapping: bool = False
) -> list[Transcript]:
    """Run `recordings` to their ends and return their transcripts, in the order given."""
    news = run_recordings(engine, recordings, overlapping=overlapping)
    finished = [one.recording for one in news if one.finished]
    assert sorted(map(id, finished)) == sorted(map(id, recordings))
    return [recording.transcript() for recording in recordings]


def recording_of(
    model: LoadedStt,
    frames: Sequence[Frame],
    prompt: SttPrompt = SttPrompt(),  # noqa: B008 frozen
    timing: WordTiming = WordTiming.SERVER,
) -> Recording:
    return Recording(frames, model.config, model.tokenizer, FRAME, prompt=prompt, timing=timing)


# Through an engine.


@pytest.mark.slow
@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("slots", [1, 3, 9])
def test_more_or_fewer_recordings_than_slots(
    model: LoadedStt, slots: int, overlapping: bool
) -> None:
    """Every recording, empty ones included, gives the tokens and words that it gives alone, and is
    finished once, also where steps are launched before words are read.
    """
    lengths = [12, 0, 25, 3, 0, 30, 1]
    clips = [noise(length, seed) for seed, length in enumerate(lengths)]
    together = transcribed(
        SttEngine(model, slots),
        [recording_of(model, clip) for clip in clips],
        overlapping=overlapping,
    )
    single = SttEngine(model, 1)
    for clip, transcript in zip(clips, together, strict=True):
        (alone,) = transcribed(single, [recording_of(model, clip)])
        assert (transcript.tokens, transcript.words, transcript.text) == (
            alone.tokens,
            alone.words,
            alone.text,
        )
        assert len(transcript.tokens) == transcript.figures.steps == len(clip) + CLOSING
    assert any(transcript.text for transcript in together)


def test_no_recordings(model: LoadedStt) -> None:
    """Nothing to do is done at once."""
    assert list(run_recordings(SttEngine(model, 2), [])) == []


@pytest.mark.slow
def test_news_come_as_they_are_heard(model: LoadedStt) -> None:
    """The news of a recording, one after the other, are its words and turns; the last is marked,
    and shorter recordings end first.
    """
    recordings = [
        recording_of(model, noise(length, seed)) for seed, length in enumerate([40, 10, 25])
    ]
    heard: dict[int, list[RecordingEvent]] = {id(recording): [] for recording in recordings}
    ended = []
    for news in run_recordings(SttEngine(model, 3), recordings):
        assert news.recording not in ended
        assert news.events or news.finished
        heard[id(news.recording)] += news.events
        ended += [news.recording] if news.finished else []
    assert ended == [recordings[1], recordings[2], recordings[0]]
    for recording in recordings:
        transcript, events = recording.transcript(), heard[id(recording)]
        assert [word.text for word in transcript.words] == [
            event.text for event in events if isinstance(event, SttWord)
        ]
        assert list(transcript.turns) == [event for event in events if isinstance(event, TurnEnd)]


def test_recordings_are_opened_as_slots_come_free(model: LoadedStt) -> None:
    """No more recordings are under way than there are slots, so that a thousand files need not be
    open at once.
    """
    begun: list[Recording] = []

    def recordings() -> Iterator[Recording]:
        for seed in range(5):
            begun.append(recording_of(model, noise(4, seed)))
            yield begun[-1]

    finished = 0
    for news in run_recordings(SttEngine(model, 2), recordings()):
        assert len(begun) - finished <= 2
        finished += news.finished
    assert finished == 5


def test_the_next_step_is_launched_before_words_are_read(
    model: LoadedStt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `overlapping`, and not while a prompt's text is written."""
    done: list[str] = []
    launch, wait = SttEngine.launch, SttLaunchedStep.wait

    def launched(*given: Any) -> SttLaunchedStep:
        done.append("launch")
        return launch(*given)

    def waited(launched: SttLaunchedStep) -> SttOutput:
        # The engine also looks whether the step before the last has ended.
        done.extend(["wait"] if launched._output is None else [])
        return wait(launched)

    monkeypatch.setattr(SttEngine, "launch", launched)
    monkeypatch.setattr(SttLaunchedStep, "wait", waited)
    transcribed(SttEngine(model, 2), [recording_of(model, noise(1))], overlapping=True)
    steps = 1 + CLOSING
    assert done == ["launch", *["launch", "wait"] * (steps - 1), "wait"]
    done.clear()
    prompted = recording_of(model, noise(1), SttPrompt("the lights of the town hall " * 9))
    (transcript,) = transcribed(SttEngine(model, 1), [prompted], overlapping=True)
    assert transcript.unsaid_prompt
    assert done == ["launch", "wait"] * transcript.figures.steps


@pytest.mark.parametrize("overlapping", [False, True])
def test_frames_that_raise_end_the_run(model: LoadedStt, overlapping: bool) -> None:
    """What reading a recording raises comes out of the run, the other recordings have what all
    steps gave, and the engine's slots serve the next run as if nothing had been.
    """
    clip, engine = noise(10), SttEngine(model, 2)

    def torn() -> Iterator[Frame]:
        yield from noise(5, seed=9)
        raise EOFError("torn")

    neighbour = recording_of(model, clip)
    with pytest.raises(EOFError, match="torn"):
        list(
            run_recordings(
                engine,
                [Recording(torn(), model.config, model.tokenizer, FRAME), neighbour],
                overlapping=overlapping,
            )
        )
    assert neighbour.figures.steps == 5
    again, expected = (
        transcribed(one, [recording_of(model, clip)])[0] for one in (engine, SttEngine(model, 1))
    )
    assert again.tokens == expected.tokens


def test_a_step_that_fails_loses_no_words_of_the_one_before(
    model: LoadedStt, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, steps = SttEngine.launch, iter(range(5))

    def interrupted(*given: Any) -> SttLaunchedStep:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return launch(*given)

    monkeypatch.setattr(SttEngine, "launch", interrupted)
    recording = recording_of(model, noise(10))
    with pytest.raises(KeyboardInterrupt):
        list(run_recordings(SttEngine(model, 1), [recording], overlapping=True))
    assert recording.figures.steps == 5


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_recording_that_has_ended_is_told_before_the_next_fails(
    model: LoadedStt, overlapping: bool
) -> None:
    first = recording_of(model, noise(3))

    def recordings() -> Iterator[Recording]:
        yield first
        raise FileNotFoundError("second.wav")

    finished: list[Recording] = []
    with pytest.raises(FileNotFoundError):
        for news in run_recordings(SttEngine(model, 1), recordings(), overlapping=overlapping):
            finished += [news.recording] if news.finished else []
    assert finished == [first]


def test_figures(model: LoadedStt) -> None:
    """A recording counts the steps it took part in; what the steps took is shared among those that
    took part.
    """
    recordings = [recording_of(model, noise(length, seed)) for seed, length in enumerate([20, 5])]
    long, short = (
        transcript.figures for transcript in transcribed(SttEngine(model, 3), recordings)
    )
    assert (long.steps, short.steps) == (20 + CLOSING, 5 + CLOSING)
    assert [recording.recording_frames for recording in recordings] == [20, 5]
    assert 0 < short.share_s == pytest.approx(short.compute_s / 2)
    # Of the long one's steps, all of the short one's were shared.
    assert long.share_s == pytest.approx(long.compute_s - short.compute_s / 2)
    assert long.non_finite_steps == short.non_finite_steps == 0


def test_steps_that_are_not_finite_are_counted(model: LoadedStt) -> None:
    """Where a model computes NaN the figures say in how many steps, per recording."""
    lm = copy.deepcopy(model.lm)
    with torch.no_grad():
        # Only a stream's first step uses the initial text; what it leaves in the caches reaches
        # every later step.
        lm.text_emb[lm.initial_text, 5] = float("nan")
    broken = replace(model, lm=lm)
    (transcript,) = transcribed(SttEngine(broken, 1), [recording_of(broken, noise(3))])
    assert transcript.figures.non_finite_steps == transcript.figures.steps == 3 + CLOSING


@pytest.mark.slow
@pytest.mark.parametrize("overlapping", [False, True])
def test_text_prompt(model: LoadedStt, overlapping: bool) -> None:
    """A text prompt is written out by the model, in order, and is not part of the transcript; what
    it did not get to write is reported.
    """
    prompt = model.tokenizer.encode("the lights of the town")
    (transcript,) = transcribed(
        SttEngine(model, 1),
        [recording_of(model, noise(90), SttPrompt(model.tokenizer.decode(prompt)))],
        overlapping=overlapping,
    )
    written = [token for token in transcript.tokens if token > PADDING]
    said = prompt[: len(written)]
    assert written[: len(said)] == said
    assert said
    assert transcript.unsaid_prompt == model.tokenizer.decode(prompt[len(said) :])
    assert transcript.text == model.tokenizer.decode(written[len(said) :])


@pytest.mark.slow
def test_audio_prompt_is_heard_but_not_transcribed(model: LoadedStt) -> None:
    """What a prompt's audio makes the model write is left out, and the recording is processed after
    it, with its own length.
    """
    prompt, clip = noise(20, seed=1), noise(15, seed=2)
    recording = recording_of(model, clip, SttPrompt(frames=prompt))
    (transcript,) = transcribed(SttEngine(model, 1), [recording])
    gap = [np.zeros(FRAME, dtype=np.float32)] * PROMPT_GAP_FRAMES
    (whole,) = transcribed(SttEngine(model, 1), [recording_of(model, [*prompt, *gap, *clip])])
    assert transcript.tokens == whole.tokens
    assert recording.recording_frames == 15
    assert whole.text.endswith(transcript.text)
    assert len(transcript.words) < len(whole.words)


# By hand: what is fed, and what tokens mean.


@pytest.mark.parametrize(("prefix_s", "silent"), [(0.0, 0), (1.0, 13)])
@pytest.mark.parametrize("prompt_frames", [0, 4])
def test_what_is_fed(model: LoadedStt, prefix_s: float, silent: int, prompt_frames: int) -> None:
    """In this order: silence prefix, prompt, ten silent frames, the recording, silence for the
    delay and a second more.
    """
    config = replace(model.config, silence_prefix_s=prefix_s)
    prompt = SttPrompt(frames=numbered(100, prompt_frames))
    recording = Recording(iter(numbered(1, 3)), config, Toy(), 1, prompt=prompt)
    fed = [float(frame[0]) for frame in iter(recording.next_frame, None)]
    gap = PROMPT_GAP_FRAMES if prompt_frames else 0
    assert (
        fed
        == [0] * silent
        + [100 + number for number in range(prompt_frames)]
        + [0] * gap
        + [1, 2, 3]
        + [0] * CLOSING
    )
    assert recording.next_frame() is None
    assert recording.recording_frames == 3


TOKENS = st.lists(
    st.sampled_from([BOUNDARY, BOUNDARY, PADDING, PADDING, 1, 2, *PIECES]), max_size=80
)


@given(tokens=TOKENS, prefix_s=st.sampled_from([0.0, 0.5, 1.0]))
def test_times_count_from_the_recording(
    model: LoadedStt, tokens: list[int], prefix_s: float
) -> None:
    """The times are what the server's rule says of the tokens, moved back by the silence that was
    fed, never before 0.
    """
    recording = Recording([], replace(model.config, silence_prefix_s=prefix_s), Toy(), 1)
    machine, shift_s = SttWordMachine(Toy(), DELAY), ceil(prefix_s * 12.5) / 12.5
    expected: list[RecordingEvent] = []
    for event in [*(event for token in tokens for event in machine.take(token)), *machine.flush()]:
        if isinstance(event, SttWord):
            expected.append(SttWord(event.text, max(0.0, event.start_s - shift_s)))
        else:
            expected.append(SttWordEnd(max(0.0, event.stop_s - shift_s)))
    assert told(recording, tokens) == expected
    words = recording.transcript().words
    assert [SttWord(word.text, word.start_s) for word in words] == [
        event for event in expected if isinstance(event, SttWord)
    ]
    assert [SttWordEnd(word.stop_s) for word in words if word.stop_s is not None] == [
        e for e in expected if isinstance(e, SttWordEnd)
    ]


@given(tokens=TOKENS, prefix_s=st.sampled_from([0.0, 1.0]))
def test_python_timing(model: LoadedStt, tokens: list[int], prefix_s: float) -> None:
    """On request the words and times are those of the Python package's rule over the same tokens;
    the text stays the same.
    """
    config = replace(model.config, silence_prefix_s=prefix_s)
    by_rule = {timing: Recording([], config, Toy(), 1, timing=timing) for timing in WordTiming}
    for recording in by_rule.values():
        told(recording, tokens)
    transcript = by_rule[WordTiming.PYTHON].transcript()
    early = [PADDING if token != BOUNDARY else token for token in tokens[: DELAY - 1]]
    shown = [*early, *tokens[DELAY - 1 :]]
    delay_s = DELAY / 12.5
    assert list(transcript.words) == words_of_sequence(
        shown, Toy(), prefix_frames=ceil(prefix_s * 12.5), delay_s=delay_s
    )
    assert transcript.text == by_rule[WordTiming.SERVER].transcript().text == Toy().decode(shown)
    assert transcript.tokens == tuple(tokens)


def test_both_timings_of_a_known_stream(model: LoadedStt) -> None:
    """One word said 0.4 s to 0.8 s into a recording with a second of silence before it, by both
    rules.
    """
    config = replace(model.config, silence_prefix_s=1.0)
    tokens = [PADDING] * 23 + [BOUNDARY, 4, 6, PADDING, PADDING, BOUNDARY]
    words = {}
    for timing in WordTiming:
        recording = Recording([], config, Toy(), 1, timing=timing)
        told(recording, tokens)
        words[timing] = recording.transcript().words
    # The server counts steps done, 13 of which were silence. Python counts positions and takes off
    # the prefix in whole seconds.
    assert words[WordTiming.SERVER] == (
        TimedWord("toma", pytest.approx(5 * 0.08), pytest.approx(10 * 0.08)),
    )
    assert words[WordTiming.PYTHON] == (
        TimedWord("toma", pytest.approx(24 * 0.08 - 1.48), pytest.approx(28 * 0.08 - 1.48)),
    )


def test_the_last_word_is_told_at_the_end(model: LoadedStt) -> None:
    """A word that has begun when the audio ends comes from `close`, without an end."""
    recording = Recording([], model.config, Toy(), 1)
    for token in [PADDING] * 8 + [BOUNDARY, 4]:
        assert recording.take(token, ()) == []
    assert recording.close() == [SttWord("to", pytest.approx(3 * 0.08))]
    assert recording.close() == []
    assert recording.transcript().words == (TimedWord("to", pytest.approx(3 * 0.08), None),)


@given(
    prompt=st.lists(st.sampled_from(PROMPT_PIECES), min_size=1, max_size=6),
    says=st.lists(st.sampled_from([True, BOUNDARY, PADDING]), max_size=30),
    tokens=TOKENS,
)
def test_prompt_text_is_never_shown(
    model: LoadedStt, prompt: list[int], says: list[bool | int], tokens: list[int]
) -> None:
    """However a model spreads a prompt over its steps, its pieces are forced in order, and none
    shows before it is through.
    """
    text = " ".join(PIECES[token].strip() for token in prompt)
    recording = Recording([], model.config, Toy(), 1, prompt=SttPrompt(text))
    left = list(prompt)
    for says_it in says:
        assert recording.forced == (left[0] if left else -1)
        if says_it is True and left:
            assert not any(isinstance(event, SttWord) for event in recording.take(left.pop(0), ()))
        elif says_it is not True:
            assert not any(isinstance(event, SttWord) for event in recording.take(int(says_it), ()))
    shown: list[int] = []
    if not left:
        tokens = [PADDING, *(token for token in tokens if token not in PROMPT_PIECES)]
        begun = len(recording.transcript().tokens)
        told(recording, tokens)
        shown = [token for number, token in enumerate(tokens, start=begun + 1) if number >= DELAY]
    transcript = recording.transcript()
    assert transcript.unsaid_prompt == Toy().decode(left)
    assert transcript.text == Toy().decode(shown)


@pytest.mark.parametrize(("pauses", "shown"), [([PADDING], "to"), ([BOUNDARY], "to"), ([], "")])
def test_a_prompts_last_word_is_hidden_whole(
    model: LoadedStt, pauses: list[int], shown: str
) -> None:
    """What the model adds to the last word of a prompt's text before it pauses belongs to the
    prompt.
    """
    recording = Recording([], model.config, Toy(), 1, prompt=SttPrompt("at"))
    told(recording, [PADDING] * 7 + [BOUNDARY, 7, 9, *pauses, 4, PADDING])
    assert recording.transcript().text == shown


@pytest.mark.parametrize(("boundary", "shown"), [(8, "to"), (9, "to"), (10, "atner to")])
def test_where_an_audio_prompt_ends(model: LoadedStt, boundary: int, shown: str) -> None:
    """A word that begins within the prompt's four frames and the delay is the prompt's, to its end;
    the next step's is the recording's.
    """
    recording = Recording([], model.config, Toy(), 1, prompt=SttPrompt(frames=numbered(1, 4)))
    told(recording, [PADDING] * (boundary - 1) + [BOUNDARY, 7, 9, BOUNDARY, 4, PADDING])
    assert recording.transcript().text == shown


def test_times_after_a_prompt(model: LoadedStt) -> None:
    """After an audio prompt of four frames and its gap, times count from the recording, by both
    rules; the prompt's words are gone.
    """
    tokens = (
        [PADDING] * 5
        + [BOUNDARY, 7, 7, 7, 7, 7, 9, BOUNDARY]
        + [PADDING] * 10
        + [BOUNDARY, 4, PADDING, PADDING, BOUNDARY]
    )
    words = {}
    for timing in WordTiming:
        recording = Recording(
            [], model.config, Toy(), 1, prompt=SttPrompt(frames=numbered(1, 4)), timing=timing
        )
        told(recording, tokens)
        words[timing] = recording.transcript().words
        assert recording.transcript().text == "to"
    assert words[WordTiming.SERVER] == (
        TimedWord("to", pytest.approx((24 - 6 - 14) / 12.5), pytest.approx((28 - 6 - 14) / 12.5)),
    )
    assert words[WordTiming.PYTHON] == (
        TimedWord("to", pytest.approx((24 - 6 - 14) / 12.5), pytest.approx((27 - 6 - 14) / 12.5)),
    )


def test_turns(model: LoadedStt) -> None:
    """A turn ends with the first long pause after a word, at the audio time by then, prefix not
    counted.
    """
    recording = Recording([], replace(model.config, silence_prefix_s=1.0), Toy(), 1)
    told(recording, [PADDING] * 20, QUIET)
    events = told(recording, [BOUNDARY, 4, PADDING])
    assert recording.take(PADDING, QUIET) == [TurnEnd(pytest.approx((24 - 13) / 12.5))]
    assert recording.take(PADDING, QUIET) == []
    assert [type(event) for event in events] == [SttWord]
    assert recording.transcript().turns == (TurnEnd(pytest.approx(11 / 12.5)),)
