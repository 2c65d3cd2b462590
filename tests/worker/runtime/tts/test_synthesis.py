"""Whole scripts through an engine of one's own."""

import queue
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from dsmops.dtypes import ComputeDType
from dsmops.errors import CheckpointError, InputError
from dsmops.worker.models.tts import LoadedTts, load_tts
from dsmops.worker.models.voice import read_voice
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.loop import TtsEnded, TtsLoop, TtsObserver
from dsmops.worker.runtime.tts.machine import TtsEntry, TtsPacing
from dsmops.worker.runtime.tts.script import TtsTextStream, script_entries
from dsmops.worker.runtime.tts.synthesis import Script, run_script, run_scripts
from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord
from dsmops.worker.tiny.tts import write_tiny_tts
from tests.support.engines import Letters
from tests.support.tts_engines import BROKEN, TALK, TalkEngine

REQUEST = TtsRequest(seed=4)
SCRIPT = script_entries(['ab c <break time="1s"/> d', "ef g h"], Letters())


def test_a_script_in_sound_and_words_out() -> None:
    """All words but no pauses, in order.

    The turns' tokens; as much sound as words and closing padding take; only its slot steps.
    """
    engine = TalkEngine(3)
    news = list(run_script(engine, SCRIPT, REQUEST))
    words = [event for event in news if isinstance(event, TtsWord)]
    assert [word.text for word in words] == ["ab", "c", "d", "ef", "g", "h"]
    assert all(word.start_s < word.stop_s for word in words)
    assert round((words[2].start_s - words[1].stop_s) * 12.5) >= 12
    frames = [event for event in news if isinstance(event, TtsAudio)]
    assert len(frames) == round(words[-1].stop_s * 12.5) - 1 + TtsPacing().final_padding
    assert engine.masks == [(True, False, False)] * engine.steps
    assert engine.text_only == [True] * TALK.delay_steps + [False] * (
        engine.steps - TALK.delay_steps
    )


def test_the_same_again_is_the_same_sound() -> None:
    """On the same engine, after another script; another seed is another sound."""
    engine = TalkEngine(1)

    def levels(entries: list[TtsEntry], request: TtsRequest) -> list[float]:
        return [
            float(event.pcm[0])
            for event in run_script(engine, entries, request)
            if isinstance(event, TtsAudio)
        ]

    first = levels(SCRIPT, REQUEST)
    assert levels(SCRIPT[:2], TtsRequest(seed=5)) != first[:2]
    assert levels(SCRIPT, REQUEST) == first
    assert levels(SCRIPT, TtsRequest(seed=5)) != first


def test_text_is_read_as_it_is_needed() -> None:
    """Sound begins while the script is still coming in, with as few words read as the model sees
    ahead.
    """
    read = 0

    def coming() -> Iterator[TtsEntry]:
        nonlocal read
        for entry in script_entries(["a b c d e f g h i j k l m n o p"], Letters()):
            read += 1
            yield entry

    news = run_script(TalkEngine(1), coming(), REQUEST)
    next(event for event in news if isinstance(event, TtsAudio))
    assert read <= 6
    list(news)
    assert read == 16


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_script_that_has_ended_is_told_before_the_next_fails(overlapping: bool) -> None:
    first, whole = Script(SCRIPT, REQUEST), list(run_script(TalkEngine(1), SCRIPT, REQUEST))

    def scripts() -> Iterator[Script]:
        yield first
        raise FileNotFoundError("second.txt")

    events: list[TtsWord | TtsAudio] = []
    finished: list[Script] = []
    with pytest.raises(FileNotFoundError):
        for news in run_scripts(TalkEngine(1), scripts(), overlapping=overlapping):
            events += news.events
            finished += [news.script] if news.finished else []
    assert finished == [first]
    assert len(events) == len(whole)


def test_nothing_to_say_is_an_error() -> None:
    """Of the user, not silence."""
    with pytest.raises(InputError, match="no word"):
        list(run_script(TalkEngine(1), [], REQUEST))


def test_a_request_that_cannot_be_followed_is_refused() -> None:
    """Before the first step."""
    engine = TalkEngine(1)
    with pytest.raises(InputError, match="cfg"):
        list(run_script(engine, SCRIPT, TtsRequest(cfg=1.7)))
    assert engine.steps == 0


def test_broken_numbers_end_it() -> None:
    """With what came before them given out, and none of them."""
    news = []
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        news.extend(
            run_script(TalkEngine(1), script_entries([f"a b c d {BROKEN} e"], Letters()), REQUEST)
        )
    engine = TalkEngine(1)
    got = run_script(engine, script_entries([f"a b c d e f g h {BROKEN} e"], Letters()), REQUEST)
    with pytest.raises(CheckpointError):
        for event in got:
            assert not isinstance(event, TtsAudio) or np.isfinite(event.pcm).all()


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedTts, TtsRequest]:
    """The tiny model, and its own voice at a temperature that shows differences."""
    tiny = write_tiny_tts(tmp_path_factory.mktemp("tts"))
    model = load_tts(tiny.files, device=torch.device("cpu"), dtype=ComputeDType.F32)
    voice = read_voice(
        tiny.voice_folder / f"{tiny.voice_name}{model.config.voice_suffix}", model.config
    )
    return model, TtsRequest(voices=(voice, voice), seed=5)


@pytest.mark.slow
def test_steps_that_overlap_give_the_same_sound(talker: tuple[LoadedTts, TtsRequest]) -> None:
    """Texts of different lengths, one of them empty, in as many slots and in fewer: the events of
    each are those of steps one after the other, to the bit, and each is finished once.
    """
    model, request = talker
    texts = [
        "Hello there, this is a test",
        "Yes",
        "",
        "A longer one that goes on for a while",
        "No",
    ]

    def said(slots: int, *, overlapping: bool) -> list[list[TtsWord | bytes]]:
        scripts = [
            Script(TtsTextStream(model.tokenizer).take(text), replace(request, seed=seed))
            for seed, text in enumerate(texts)
        ]
        events: dict[int, list[TtsWord | bytes]] = {id(script): [] for script in scripts}
        finished = []
        for update in run_scripts(TtsEngine(model, slots), scripts, overlapping=overlapping):
            assert id(update.script) not in finished
            events[id(update.script)] += [
                event.pcm.tobytes() if isinstance(event, TtsAudio) else event
                for event in update.events
            ]
            finished += [id(update.script)] if update.finished else []
        assert sorted(finished) == sorted(events)
        return [events[id(script)] for script in scripts]

    for slots in (2, 5):
        expected = said(slots, overlapping=False)
        assert said(slots, overlapping=True) == expected
        assert [bool(events) for events in expected] == [bool(text) for text in texts]


@pytest.mark.slow
def test_the_loop_says_the_same_with_the_real_engine(talker: tuple[LoadedTts, TtsRequest]) -> None:
    """A stream whose words come one by one, beside others, sounds as the whole text does alone; so
    do its words' times.
    """
    model, request = talker
    text = "Hello there, this is a test of speech"
    alone = list(
        run_script(TtsEngine(model, 3), TtsTextStream(model.tokenizer).take(text), request)
    )
    ready: queue.Queue[object] = queue.Queue()
    news: queue.Queue[object] = queue.Queue()
    observer = TtsObserver(
        warming_up=lambda: None,
        started=ready.put,
        died=ready.put,
        stepped=lambda _: None,
        news=lambda streams: news.put(list(streams)),
    )
    loop = TtsLoop("tts", lambda: TtsEngine(model, 3), observer)
    loop.start()
    assert ready.get(timeout=30) == 3
    speech, neighbour = loop.open(request), loop.open(TtsRequest(seed=1))
    assert speech is not None
    assert neighbour is not None
    neighbour.add_text("somebody else speaks and speaks")
    for word in text.split():
        speech.add_text(word)
    speech.end_text()
    heard = speech.fetch()
    while TtsEnded() not in heard:
        news.get(timeout=30)
        heard += speech.fetch()
    assert loop.stop()
    assert [event for event in heard if isinstance(event, TtsWord)] == [
        event for event in alone if isinstance(event, TtsWord)
    ]
    frames, others = (
        [event.pcm for event in events if isinstance(event, TtsAudio)] for events in (heard, alone)
    )
    np.testing.assert_allclose(np.concatenate(frames), np.concatenate(others), atol=1e-5)
    assert np.abs(np.concatenate(frames)).max() > 0.01
