"""Whole scripts through an engine of one's own."""

from collections.abc import Iterator

import numpy as np
import pytest

from dsmops.errors import CheckpointError, InputError
from dsmops.worker.runtime.synthesis import speak
from dsmops.worker.runtime.tts_engine import SlotRequest
from dsmops.worker.runtime.tts_machine import Entry, Pacing
from dsmops.worker.runtime.tts_script import script_entries
from dsmops.worker.runtime.utterance import SpeechAudio, SpokenWord
from tests.support.engines import Letters
from tests.support.tts_engines import BROKEN, TALK, TalkEngine

REQUEST = SlotRequest(seed=4)
SCRIPT = script_entries(['ab c <break time="1s"/> d', "ef g h"], Letters())


def test_a_script_in_sound_and_words_out() -> None:
    """All words but no pauses, in order; the turns' tokens; as much sound as words and closing padding take; only its slot steps."""
    engine = TalkEngine(3)
    news = list(speak(engine, SCRIPT, REQUEST))
    words = [event for event in news if isinstance(event, SpokenWord)]
    assert [word.text for word in words] == ["ab", "c", "d", "ef", "g", "h"]
    assert all(word.start_s < word.stop_s for word in words)
    assert round((words[2].start_s - words[1].stop_s) * 12.5) >= 12
    frames = [event for event in news if isinstance(event, SpeechAudio)]
    assert len(frames) == round(words[-1].stop_s * 12.5) - 1 + Pacing().final_padding
    assert engine.masks == [(True, False, False)] * engine.steps
    assert engine.text_only == [True] * TALK.delay_steps + [False] * (engine.steps - TALK.delay_steps)


def test_the_same_again_is_the_same_sound() -> None:
    """On the same engine, after another script; another seed is another sound."""
    engine = TalkEngine(1)

    def levels(entries: list[Entry], request: SlotRequest) -> list[float]:
        return [float(event.pcm[0]) for event in speak(engine, entries, request) if isinstance(event, SpeechAudio)]

    first = levels(SCRIPT, REQUEST)
    assert levels(SCRIPT[:2], SlotRequest(seed=5)) != first[:2]
    assert levels(SCRIPT, REQUEST) == first
    assert levels(SCRIPT, SlotRequest(seed=5)) != first


def test_text_is_read_as_it_is_needed() -> None:
    """Sound begins while the script is still coming in, with as few words read as the model sees ahead."""
    read = 0

    def coming() -> Iterator[Entry]:
        nonlocal read
        for entry in script_entries(["a b c d e f g h i j k l m n o p"], Letters()):
            read += 1
            yield entry

    news = speak(TalkEngine(1), coming(), REQUEST)
    next(event for event in news if isinstance(event, SpeechAudio))
    assert read <= 6
    list(news)
    assert read == 16


def test_nothing_to_say_is_an_error() -> None:
    """Of the user, not silence."""
    with pytest.raises(InputError, match="no word"):
        list(speak(TalkEngine(1), [], REQUEST))


def test_a_request_that_cannot_be_followed_is_refused() -> None:
    """Before the first step."""
    engine = TalkEngine(1)
    with pytest.raises(InputError, match="cfg"):
        list(speak(engine, SCRIPT, SlotRequest(cfg=1.7)))
    assert engine.steps == 0


def test_broken_numbers_end_it() -> None:
    """With what came before them given out, and none of them."""
    news = []
    with pytest.raises(CheckpointError, match="not finite"):
        news.extend(speak(TalkEngine(1), script_entries([f"a b c d {BROKEN} e"], Letters()), REQUEST))
    engine = TalkEngine(1)
    got = speak(engine, script_entries([f"a b c d e f g h {BROKEN} e"], Letters()), REQUEST)
    with pytest.raises(CheckpointError):
        for event in got:
            assert not isinstance(event, SpeechAudio) or np.isfinite(event.pcm).all()
