"""OpenAI's endpoints, as OpenAI's own client sees them: unmodified, with its retries off."""

import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import openai
import pytest
import soundfile

from dsmops.audio import read
from dsmops.worker.serving.settings import Limits
from tests.support.served_tiny import KEY, RECORDINGS, SPOKEN
from tests.support.workers import KEY as ECHO_KEY
from tests.support.workers import ThreadedServer, WorkerProcess, request

RECORDING = RECORDINGS / SPOKEN["audio"]
SAID = "good morning my friend"
FORMATS = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "opus": "OGG"}


def client_of(url: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(tiny_worker: WorkerProcess) -> Iterator[openai.OpenAI]:
    with client_of(tiny_worker.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def echo() -> Iterator[ThreadedServer]:
    """A server of one speech-to-text module without a model, and with small limits."""
    with ThreadedServer(limits=Limits(upload_bytes=50_000, post_audio_s=1.0)) as running:
        yield running


@pytest.fixture(scope="module")
def answers(client: openai.OpenAI) -> dict[str, Any]:
    """One recording in every shape, all at once: they share the steps of the model."""

    def ask(asked: dict[str, Any]) -> Any:
        with RECORDING.open("rb") as file:
            answer = client.audio.transcriptions.create(model="tiny", file=file, **asked)
            return list(answer) if asked.get("stream") else answer

    both: Any = ["word", "segment"]
    shapes: dict[str, dict[str, Any]] = {
        "json": {},
        "text": {"response_format": "text"},
        "srt": {"response_format": "srt"},
        "vtt": {"response_format": "vtt"},
        "times": {"response_format": "verbose_json", "timestamp_granularities": both},
        "segments": {"response_format": "verbose_json"},
        "stream": {"stream": True},
    }
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(shapes, pool.map(ask, shapes.values()), strict=True))


@pytest.fixture(scope="module")
def sounds(client: openai.OpenAI) -> dict[str, bytes]:
    """One text in every format."""

    def ask(form: Any) -> bytes:
        return client.audio.speech.create(
            model="tts", voice="hibari", input=SAID, response_format=form
        ).content

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FORMATS, pool.map(ask, FORMATS), strict=True))


def a_wav(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(round(24_000 * seconds)), 24_000, format="WAV")
    return file.getvalue()


@pytest.mark.slow
def test_models_are_listed_by_their_own_names(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [(model.id, model.object, model.owned_by) for model in models] == [
        ("tiny", "model", "dsmops"),
        ("tiny-tts", "model", "dsmops"),
    ]
    assert client.models.retrieve("tiny") == models[0]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("tinny")
    assert caught.value.code == "model_not_found"


@pytest.mark.slow
def test_words_come_as_json_and_text(answers: dict[str, Any]) -> None:
    assert answers["json"].text == SPOKEN["text"]
    assert answers["json"].usage.type == "duration"
    seconds = soundfile.info(RECORDING).duration
    assert answers["json"].usage.seconds == pytest.approx(seconds, abs=0.01)
    assert answers["text"] == f"{SPOKEN['text']}\n"


@pytest.mark.slow
def test_words_come_with_times(answers: dict[str, Any]) -> None:
    """Each word once, ends after starts, starts near those of the recording; segments hold the same
    words, and come alone where nothing else is asked for.
    """
    answer = answers["times"]
    words = answer.words
    assert [word.word for word in words] == SPOKEN["text"].split()
    assert all(word.start < word.end for word in words)
    assert all(one.end <= other.start for one, other in pairwise(words))
    late_s = [
        abs(word.start - start_s)
        for word, start_s in zip(words, SPOKEN["word_starts_s"], strict=True)
    ]
    assert np.median(late_s) < 0.2
    assert " ".join(segment.text for segment in answer.segments) == SPOKEN["text"]
    assert answer.segments[0].start == words[0].start
    assert answer.duration == pytest.approx(soundfile.info(RECORDING).duration, abs=0.01)
    assert answers["segments"].words is None
    assert answers["segments"].segments == answer.segments


@pytest.mark.slow
@pytest.mark.parametrize(("form", "head"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")])
def test_words_come_as_captions(answers: dict[str, Any], form: str, head: str) -> None:
    captions = answers[form]
    assert captions.startswith(head)
    lines = [line for line in captions.splitlines() if re.fullmatch("[a-z ]+", line)]
    assert " ".join(lines) == SPOKEN["text"]


@pytest.mark.slow
def test_words_come_one_by_one(answers: dict[str, Any]) -> None:
    events = answers["stream"]
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == SPOKEN["text"]
    assert len(deltas) == len(SPOKEN["text"].split())
    assert [event.type for event in events[len(deltas) :]] == ["transcript.text.done"]
    assert events[-1].text == SPOKEN["text"]


@pytest.mark.slow
@pytest.mark.parametrize("form", list(FORMATS))
def test_speech_comes_in_every_format(sounds: dict[str, bytes], form: str) -> None:
    with soundfile.SoundFile(io.BytesIO(sounds[form])) as file:
        assert file.format == FORMATS[form]
        assert file.samplerate == (48_000 if form == "opus" else 24_000)
    samples = read(io.BytesIO(sounds[form]))
    assert 1 < len(samples) / 24_000 < 10
    assert np.abs(samples).max() > 0.05


@pytest.mark.slow
def test_what_is_said_is_heard(client: openai.OpenAI) -> None:
    """Samples alone, as a WAV sent back: most of the words are the same, and an OpenAI model's name
    and an OpenAI voice's are enough for programs that offer no choice.
    """
    pcm = client.audio.speech.create(
        model="gpt-4o-mini-tts", voice="alloy", input=SAID, response_format="pcm"
    ).content
    file = io.BytesIO()
    soundfile.write(file, np.frombuffer(pcm, "<i2"), 24_000, format="WAV")
    text = client.audio.transcriptions.create(
        model="whisper-1", file=("said.wav", file.getvalue())
    ).text
    assert len(set(SAID.split()) & set(text.split())) >= 2


@pytest.mark.slow
def test_speech_is_sent_as_it_is_made(client: openai.OpenAI) -> None:
    """In many pieces, as bytes and as events."""
    with client.audio.speech.with_streaming_response.create(
        model="tts", voice="hibari", input=SAID
    ) as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        assert answer.headers["Transfer-Encoding"] == "chunked"
        pieces = list(answer.iter_bytes())
    assert len(pieces) > 3
    with client.audio.speech.with_streaming_response.create(
        model="tts", voice="hibari", input=SAID, stream_format="sse"
    ) as answer:
        events = [
            json.loads(line.removeprefix("data: "))
            for line in answer.iter_lines()
            if line.startswith("data: ")
        ]
    assert {event["type"] for event in events[:-1]} == {"speech.audio.delta"}
    assert events[-1] == {"type": "speech.audio.done"}


@pytest.mark.slow
def test_what_is_not_used_is_told(client: openai.OpenAI) -> None:
    with RECORDING.open("rb") as file:
        answer = client.audio.transcriptions.with_raw_response.create(
            model="tiny", file=file, language="en", temperature=0.0
        )
    assert "language, temperature" in answer.headers["Warning"]
    answer = client.audio.speech.with_raw_response.create(
        model="tts", voice="alloy", input="yes", instructions="whisper", response_format="wav"
    )
    assert "the default voice speaks" in answer.headers["Warning"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "error", "param", "says"),
    [
        ({"voice": "hibary"}, openai.BadRequestError, "voice", "hibari"),
        ({"model": "tiny"}, openai.NotFoundError, "model", "never speaks"),
        ({"model": "ttts"}, openai.NotFoundError, "model", "Use tiny-tts"),
        ({"response_format": "aac"}, openai.BadRequestError, "response_format", "mp3, opus"),
        ({"speed": 1.5}, openai.BadRequestError, "speed", "1.0"),
        ({"speed": True}, openai.BadRequestError, "speed", "1.0"),
        ({"input": " "}, openai.BadRequestError, "input", "empty"),
        ({"input": "a" * 300_000}, openai.BadRequestError, "input", "200,000"),
    ],
)
def test_speech_that_cannot_be_had(
    client: openai.OpenAI, asked: dict[str, Any], error: type[Exception], param: str, says: str
) -> None:
    wanted: dict[str, Any] = {"model": "tts", "voice": "hibari", "input": SAID, **asked}
    with pytest.raises(error) as caught:
        client.audio.speech.create(**wanted)
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("asked", "error", "param"),
    [
        ({"model": "asrr"}, openai.NotFoundError, "model"),
        ({"file": ("a.wav", b"no audio")}, openai.BadRequestError, "file"),
        ({"file": ("a.wav", b"")}, openai.BadRequestError, "file"),
        ({"response_format": "diarized_json"}, openai.BadRequestError, "response_format"),
        ({"timestamp_granularities": ["word"]}, openai.BadRequestError, "timestamp_granularities"),
        ({"include": ["logprobs"]}, openai.BadRequestError, "include"),
        (
            {"response_format": "verbose_json", "stream": True},
            openai.BadRequestError,
            "stream",
        ),
        ({"file": ("a.wav", bytes(60_000))}, openai.APIStatusError, "file"),
        ({"file": ("a.wav", b"long")}, openai.APIStatusError, "file"),
    ],
)
def test_transcripts_that_cannot_be_had(
    echo: ThreadedServer, asked: dict[str, Any], error: type[Exception], param: str
) -> None:
    if asked.get("file") == ("a.wav", b"long"):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(48_000), 24_000, format="FLAC")
        asked = {"file": ("a.flac", file.getvalue())}
    wanted: dict[str, Any] = {"model": "asr", "file": ("a.wav", a_wav(0.5)), **asked}
    with client_of(echo.url, ECHO_KEY) as client, pytest.raises(error) as caught:
        client.audio.transcriptions.create(**wanted)
    assert isinstance(caught.value, openai.APIStatusError)
    assert caught.value.param == param
    assert caught.value.status_code in (400, 404, 413)


def test_fields_as_other_clients_send_them_are_taken(echo: ThreadedServer) -> None:
    """Words of other languages for true and false, empty fields, and fields that only other servers
    know.
    """
    fields = {
        "model": "asr",
        "stream": "False",
        "response_format": "",
        "language": "",
        "temperature": "0.0",
        "chunking_strategy": "auto",
        "vad_filter": "true",
        "hotwords": "",
        "include[]": "",
        "known_speaker_names": "",
        "timestamp_granularities[]": "",
    }
    body = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    answer = request(
        echo.url,
        "POST",
        "/v1/audio/transcriptions",
        body=body + head + a_wav(0.5) + b"\r\n--x--\r\n",
        headers={
            "Authorization": f"Bearer {ECHO_KEY}",
            "Content-Type": "multipart/form-data; boundary=x",
        },
    )
    assert answer.status == 200, answer.text
    assert "text" in json.loads(answer.body)


@pytest.mark.slow
def test_null_and_empty_fields_count_as_omitted(client: openai.OpenAI) -> None:
    body = {"model": "tts", "input": "yes", "response_format": "", "stream_format": ""}
    nulls = dict.fromkeys(["voice", "speed", "instructions"])
    answer = request(
        str(client.base_url),
        "POST",
        "/v1/audio/speech",
        body=json.dumps({**body, **nulls}).encode(),
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    assert answer.status == 200, answer.text
    assert answer.headers["content-type"] == "audio/mpeg"
    assert len(answer.body) > 1_000


def test_a_wrong_key_opens_nothing(echo: ThreadedServer) -> None:
    with client_of(echo.url, "another key") as client:
        for ask in (
            client.models.list,
            lambda: client.audio.speech.create(model="tts", voice="hibari", input=SAID),
            lambda: client.audio.transcriptions.create(model="asr", file=("a.wav", a_wav(0.1))),
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask()
            assert caught.value.code == "invalid_api_key"
            assert "another key" not in caught.value.message


def test_unknown_paths_have_the_same_shape(echo: ThreadedServer) -> None:
    answer = request(
        echo.url, "POST", "/v1/chat/completions", headers={"Authorization": f"bearer {ECHO_KEY}"}
    )
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"no part"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" * 10_000),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nasr\r\n' * 100
            + b"--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
            + b"a" * 100_000
            + b"\r\n--x--\r\n",
        ),
    ],
)
def test_broken_forms_are_refused(echo: ThreadedServer, kind: str, body: bytes) -> None:
    """With an answer of the same shape, and the next request is served."""
    headers = {"Authorization": f"Bearer {ECHO_KEY}", "Content-Type": kind}
    answer = request(echo.url, "POST", "/v1/audio/transcriptions", body=body, headers=headers)
    assert answer.status in (400, 413)
    assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"
    with client_of(echo.url, ECHO_KEY) as client:
        assert client.models.list().data[0].id == "asr"


def test_a_form_that_comes_slowly_is_given_up() -> None:
    with ThreadedServer(limits=Limits(body_s=0.2)) as server:
        headers = {
            "Authorization": f"Bearer {ECHO_KEY}",
            "Content-Type": "multipart/form-data; boundary=x",
            "Content-Length": "1000",
        }
        answer = request(
            server.url, "POST", "/v1/audio/transcriptions", body=b"--x\r\n", headers=headers
        )
    assert answer.status == 408


@pytest.mark.slow
def test_a_full_server_says_so() -> None:
    """With more posts than slots and places in the line, one gets 503 and when to come again.
    Here the line is so short that not even the two slots may be asked for.
    """
    with (
        ThreadedServer(limits=Limits(waiting_posts=-2)) as server,
        client_of(server.url, ECHO_KEY) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.audio.transcriptions.create(model="asr", file=("a.wav", a_wav(0.1)))
    assert caught.value.status_code == 503
    assert caught.value.code == "overloaded"
    assert caught.value.response.headers["Retry-After"] == "10"
