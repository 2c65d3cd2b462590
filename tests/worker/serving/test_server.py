"""The worker as its clients see it: the real command with the tiny model, and a client that shares
no code with it.
"""

import json
import os
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import numpy as np
import pytest
import sphn
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dsmops.operations.speech.transcription import transcribe
from dsmops.worker.tiny.stt import API_KEY, TinyStt
from tests.support.sound import encoded
from tests.support.stt_client import FRAME, Message, SttClient, words
from tests.support.workers import PATH, WorkerProcess, request

RATE = 24_000


def speech(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return noise with the loudness of speech, which the tiny model writes many words about."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE)
    loudness = np.repeat(rng.random(count // 2400 + 1), 2400)[:count]
    return (0.2 * loudness * rng.standard_normal(count)).astype(np.float32)


def used_slots(url: str) -> int:
    return int(json.loads(request(url, "GET", "/api/modules_info").body)[0]["used_slots"])


def wait_for_slots(url: str, used: int, within_s: float) -> None:
    """Ask until so many slots are used; fail when it takes longer."""
    until_s = time.monotonic() + within_s
    while used_slots(url) != used:
        assert time.monotonic() < until_s, (
            f"{used_slots(url)} slots are used after {within_s} s, not {used}"
        )
        time.sleep(0.01)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "clip.wav"
    path.write_bytes(encoded(speech(4), encoding="FLOAT"))
    return path


@pytest.fixture(scope="module")
def clip_words(clip: Path, tiny_stt: TinyStt) -> list[tuple[str, float]]:
    """What `transcribe` writes about the recording."""
    heard = transcribe(clip, str(tiny_stt.server_config.parent), cpu=True)
    return [(word.text, word.start_s) for word in heard.words]


@pytest.mark.slow
def test_a_clip_comes_back_as_transcribe_hears_it(
    worker: WorkerProcess, clip_words: list[tuple[str, float]]
) -> None:
    """Ready first.

    Per frame a Step, then its words; the Marker last; and the words of `dsmops transcribe`.
    """
    with SttClient(worker.url, API_KEY) as client:
        assert client.hello == {"type": "Ready"}
        messages = client.transcribe(speech(4))
    steps = [message for message in messages if message["type"] == "Step"]
    assert [list(message) for message in steps[:1]] == [["type", "step_idx", "prs", "buffered_pcm"]]
    assert len(steps) == 50 + 6
    assert all(len(step["prs"]) == 4 and all(0 <= p <= 1 for p in step["prs"]) for step in steps)
    assert [step["step_idx"] for step in steps] == list(
        range(steps[0]["step_idx"], steps[0]["step_idx"] + 56)
    )
    assert messages[0]["type"] == "Step"
    assert messages[-1] == {"type": "Marker", "id": 1}
    heard = words(messages)
    assert len(heard) > 10
    assert heard == clip_words[: len(heard)]
    assert len(clip_words) - len(heard) <= 3, (
        "what lies in the last delay and the closing silence may be missing"
    )


@pytest.mark.slow
def test_many_at_once_hear_what_each_hears_alone(worker: WorkerProcess) -> None:
    """Four streams on four slots, starting at different times, in messages of odd lengths, change
    nothing for each other.
    """

    def alone(seed: int, samples: int = FRAME) -> list[tuple[str, float]]:
        with SttClient(worker.url, API_KEY) as client:
            pcm = speech(2.4 + seed % 3 * 0.8, seed)
            client.audio(pcm, samples)
            client.send({"type": "Marker", "id": seed})
            client.audio(np.zeros(20 * FRAME, np.float32))
            return words(client.until("Marker"))

    expected = [alone(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(pool.map(alone, range(8), [1920, 777, 5000, 24_000, 1919, 1921, 480, 57_600]))
            == expected
        )


@pytest.mark.slow
def test_a_key_may_come_in_the_query(worker: WorkerProcess) -> None:
    """When the header is absent; a wrong header wins over a right query."""
    with SttClient(worker.url, None, path=f"{PATH}?auth_id={API_KEY}&format=Pcm") as client:
        assert client.hello == {"type": "Ready"}
    for key, path in [
        (None, PATH),
        ("wrong", PATH),
        ("wrong", f"{PATH}?auth_id={API_KEY}"),
        (API_KEY + "x", PATH),
        (API_KEY[:-1], PATH),
    ]:
        with pytest.raises(InvalidStatus) as refused:
            SttClient(worker.url, key, path=path)
        assert refused.value.response.status_code == 401
        assert refused.value.response.body in (b"", None)
    with pytest.raises(InvalidStatus, match="400"):
        SttClient(worker.url, API_KEY, path=f"{PATH}?auth_id=a&auth_id=b")


def test_a_full_server_says_so(worker: WorkerProcess) -> None:
    """An Error and a close code that means "later".

    A slot that is given back can be had at once.
    """
    clients = [SttClient(worker.url, API_KEY) for _ in range(4)]
    try:
        with SttClient(worker.url, API_KEY, ready=False) as late:
            assert list_until_closed(late) == (
                [{"type": "Error", "message": "no free channels"}],
                1013,
            )
    finally:
        for client in clients:
            client.ws.close()
    wait_for_slots(worker.url, 0, within_s=1)
    with SttClient(worker.url, API_KEY) as client:
        assert client.hello == {"type": "Ready"}


def list_until_closed(client: SttClient) -> tuple[list[Message], int | None]:
    """Return what came before the server closed, and its code."""
    messages = []
    try:
        while True:
            messages.append(client.receive())
    except ConnectionClosed:
        pass
    return messages, client.ws.close_code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\xc1 not MessagePack", "not a message"),
        (msgpack.packb({"type": "Audio", "pcm": b"\0" * 7680}), "pcm is not an array"),
        (msgpack.packb({"type": "Audio", "pcm": [float("inf")]}), "not a finite"),
        (msgpack.packb({"type": "Nonsense"}), "Nonsense"),
        (
            msgpack.packb({"type": "OggOpus", "data": list(b"MThd" * 300)}),
            "not readable as Ogg/Opus",
        ),
    ],
    ids=["garbage", "bin", "inf", "unknown", "no Ogg"],
)
def test_bad_messages_end_their_sender_with_a_reason(
    worker: WorkerProcess, sent: bytes, reason: str
) -> None:
    """An Error that says why, a clean close, the slot back; a neighbour goes on."""
    with SttClient(worker.url, API_KEY) as neighbour, SttClient(worker.url, API_KEY) as client:
        client.send(sent)
        messages, code = list_until_closed(client)
        assert code == 1007
        assert [message["type"] for message in messages] == ["Error"]
        assert reason in messages[0]["message"]
        wait_for_slots(worker.url, 1, within_s=1)
        assert neighbour.transcribe(speech(0.8))[-1]["type"] == "Marker"


def test_a_message_beyond_the_limit_is_refused(worker: WorkerProcess) -> None:
    """Nine megabytes end the connection with 1009, which a reset may overtake while the client
    still sends.
    """
    with SttClient(worker.url, API_KEY) as client:
        send_until_gone(client, np.zeros(1_900_000, np.float32), samples=1_900_000)
        messages, code = list_until_closed(client)
        assert messages == []
        assert code in (1009, 1006)
    wait_for_slots(worker.url, 0, within_s=2)


def test_text_and_pings_are_no_messages(worker: WorkerProcess) -> None:
    """Text frames are ignored, pings answered."""
    with SttClient(worker.url, API_KEY) as client:
        client.ws.send("hello")
        assert client.ws.ping().wait(10)
        assert client.transcribe(speech(0.4))[-1] == {"type": "Marker", "id": 1}


def test_init_is_answered_with_ready(worker: WorkerProcess) -> None:
    """And the same audio gives the same words again."""
    with SttClient(worker.url, API_KEY) as client:
        first = words(client.transcribe(speech(2)))
        client.send({"type": "Init"})
        client.until("Ready")
        assert words(client.transcribe(speech(2))) == first


def test_the_closing_handshake_is_answered(worker: WorkerProcess) -> None:
    """A client that closes gets 1000, also while results are under way, and the slot is free."""
    with SttClient(worker.url, API_KEY) as client:
        client.audio(speech(8))
        client.ws.close()
        assert client.ws.close_code == 1000
    wait_for_slots(worker.url, 0, within_s=1)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.04, 2, 40], ids=["idle", "busy", "with its queue full"])
def test_a_client_that_vanishes_leaves_no_slot_behind(
    worker: WorkerProcess, seconds: float
) -> None:
    """A connection that is reset or cut gives its slot back within a second.

    A neighbour's words are as ever.
    """
    with SttClient(worker.url, API_KEY) as neighbour:
        expected = words(neighbour.transcribe(speech(1.6)))
        neighbour.send({"type": "Init"})
        neighbour.until("Ready")
        for reset in (True, False, True):
            gone = SttClient(worker.url, API_KEY)
            sender = threading.Thread(target=send_until_gone, args=(gone, speech(seconds)))
            sender.start()
            gone.receive() if seconds > 1 else None
            gone.vanish(reset=reset)
            sender.join()
            wait_for_slots(worker.url, 1, within_s=1)
        assert words(neighbour.transcribe(speech(1.6))) == expected


def send_until_gone(client: SttClient, pcm: NDArray[np.float32], samples: int = 5 * FRAME) -> None:
    try:
        client.audio(pcm, samples)
    except (OSError, ConnectionClosed):
        return


def test_half_a_frame_and_a_lost_upgrade_are_survived(worker: WorkerProcess) -> None:
    """Connections that break off in the middle of a request, an upgrade or a WebSocket frame."""
    host, port = worker.url.removeprefix("http://").split(":")
    upgrade = (
        f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: "
        "websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nkyutai-api-key: {API_KEY}\r\n\r\n"
    ).encode()
    for sent in (
        upgrade[:50],
        upgrade,
        upgrade + b"\x82\xfe\xff",
        upgrade + b"\xff\xff\xff\xff\xff",
        upgrade + os.urandom(500),
    ):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(sent)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for_slots(worker.url, 0, within_s=2)
    with SttClient(worker.url, API_KEY) as client:
        assert client.hello == {"type": "Ready"}


def opus(pcm: NDArray[np.float32]) -> bytes:
    writer = sphn.OpusStreamWriter(RATE)
    return b"".join(
        writer.append_pcm(pcm[start : start + FRAME])
        for start in range(0, len(pcm) - FRAME + 1, FRAME)
    )


@pytest.mark.slow
def test_ogg_opus_is_heard_in_any_pieces(worker: WorkerProcess) -> None:
    """As its decoded audio would be, wherever pages are cut."""
    pages = opus(speech(2))
    reader = sphn.OpusStreamReader(RATE)
    pcm = np.concatenate([reader.append_bytes(pages)])
    with SttClient(worker.url, API_KEY) as client:
        expected = words(client.transcribe(pcm))
    assert expected
    # The first 1,500 bytes one by one: more small messages than that have to wait.
    singles = [pages[at : at + 1] for at in range(1500)]
    cuts = [
        [pages[at : at + size] for at in range(0, len(pages), size)] for size in (10, 100, 3000)
    ]
    for pieces in ([*singles, pages[1500:]], *cuts, [pages]):
        with SttClient(worker.url, API_KEY) as client:
            for piece in pieces:
                client.send({"type": "OggOpus", "data": list(piece)})
            client.send({"type": "Marker", "id": 1})
            client.audio(np.zeros(20 * FRAME, np.float32))
            assert words(client.until("Marker"))[: len(expected)] == expected


@pytest.mark.slow
def test_damaged_opus_harms_only_its_sender(worker: WorkerProcess) -> None:
    """Whatever is wrong with it: the neighbour's words stay, and the slot comes back."""
    rng = np.random.default_rng(5)
    pages = opus(speech(1))
    with SttClient(worker.url, API_KEY) as neighbour:
        expected = words(neighbour.transcribe(speech(1.6)))
        for _ in range(20):
            damaged = bytearray(pages)
            for place in rng.integers(0, 300, 6):
                damaged[place] = rng.integers(256)
            with SttClient(worker.url, API_KEY) as client:
                client.send({"type": "OggOpus", "data": list(damaged)})
        wait_for_slots(worker.url, 1, within_s=2)
        neighbour.send({"type": "Init"})
        neighbour.until("Ready")
        assert words(neighbour.transcribe(speech(1.6))) == expected


@pytest.mark.slow
def test_a_posted_file_comes_back_as_words(
    worker: WorkerProcess, clip: Path, clip_words: list[tuple[str, float]]
) -> None:
    """A JSON array of Word and EndWord, in order."""
    answer = request(
        worker.url, "POST", PATH, body=clip.read_bytes(), headers={"kyutai-api-key": API_KEY}
    )
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    messages = json.loads(answer.body)
    assert {message["type"] for message in messages} == {"Word", "EndWord"}
    heard = words(messages)
    assert heard == clip_words[: len(heard)]
    assert len(clip_words) - len(heard) <= 3


@pytest.mark.slow
def test_a_posted_file_is_transcribed_whole_whatever_its_header_says(
    worker: WorkerProcess, clip: Path
) -> None:
    """As by `transcribe`: a data size that is too small loses nothing, and a header of the answer
    says so.
    """
    whole = clip.read_bytes()
    short = bytearray(whole)
    at = short.index(b"data") + 4
    short[at : at + 4] = (1000).to_bytes(4, "little")
    key = {"kyutai-api-key": API_KEY}
    answers = [
        request(worker.url, "POST", PATH, body=bytes(body), headers=key) for body in (whole, short)
    ]
    assert answers[0].body == answers[1].body
    assert "warning" not in answers[0].headers
    assert "all of it was read" in answers[1].headers["warning"]


def test_posts_are_refused_as_the_original_does(worker: WorkerProcess) -> None:
    """401 without a key in the header, 413 beyond 2 MiB, 500 with the reason for what is not audio.

    Nothing is left behind.
    """
    key = {"kyutai-api-key": API_KEY}
    assert request(worker.url, "POST", PATH, body=b"x").status == 401
    assert request(worker.url, "POST", f"{PATH}?auth_id={API_KEY}", body=b"x").status == 401
    assert request(worker.url, "POST", PATH, body=bytes(2_097_153), headers=key).status == 413
    answer = request(worker.url, "POST", PATH, body=b"no audio" * 100, headers=key)
    assert answer.status == 500
    assert "not readable as audio" in answer.text
    assert request(worker.url, "POST", PATH, body=b"", headers=key).status == 500
    assert used_slots(worker.url) == 0


def test_a_post_whose_sender_leaves_gives_its_slot_back(worker: WorkerProcess) -> None:
    """The work stops when no client waits for it."""
    host, port = worker.url.removeprefix("http://").split(":")
    body = encoded(speech(40)[: 2_000_000 // 2])
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nkyutai-api-key: {API_KEY}\r\nContent-Length: "
            f"{len(body)}\r\n\r\n".encode()
            + body
        )
        wait_for_slots(worker.url, 1, within_s=10)
    wait_for_slots(worker.url, 0, within_s=1)


def test_the_other_routes(worker: WorkerProcess) -> None:
    """Keys and types of the original's documents, 400 for any parameter, 404 for nothing there."""
    info = json.loads(request(worker.url, "GET", "/api/modules_info").body)
    assert info == [
        {
            "type": "batched_asr",
            "path": PATH,
            "lm": "model.safetensors",
            "audio_tokenizer": "mimi-tiny@1.safetensors",
            "used_slots": "0",
            "total_slots": "4",
        }
    ]
    build = json.loads(request(worker.url, "GET", "/api/build_info").body)
    assert set(build) == {
        *(
            "build_timestamp",
            "build_date",
            "git_branch",
            "git_timestamp",
            "git_date",
            "git_hash",
            "git_describe",
        ),
        *("rustc_host_triple", "rustc_version", "cargo_target_triple"),
    }
    assert all(isinstance(value, str) for value in build.values())
    for path in ("/api/modules_info", "/api/build_info", "/metrics"):
        assert request(worker.url, "GET", f"{path}?x=1").status == 400
    assert request(worker.url, "GET", PATH).status == 400
    assert request(worker.url, "GET", "/nothing").status == 404


def test_metrics_have_the_originals_names(worker: WorkerProcess) -> None:
    """Families, types, labels and buckets; counters without `_total`; then those of our own."""
    with SttClient(worker.url, API_KEY) as client:
        client.transcribe(speech(0.8))
        answer = request(worker.url, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    types = [line for line in lines if line.startswith("# TYPE")]
    assert [line for line in types if line.split()[2].startswith(("http_", "worker_"))] == [
        "# TYPE http_throttled counter",
        "# TYPE http_unauthorized counter",
        "# TYPE worker_devices_lost gauge",
        "# TYPE worker_front_restarts counter",
    ]
    assert [line for line in types if line.split()[2].startswith("asr_")] == [
        "# TYPE asr_connect counter",
        "# TYPE asr_connection_num_steps histogram",
        "# TYPE asr_model_step_duration histogram",
        "# TYPE asr_open_channels gauge",
    ]
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['asr_open_channels{handler="all"}'] == "1.0"
    assert float(values['asr_connect{handler="all"}']) > 10
    buckets = [name for name in values if name.startswith("asr_model_step_duration_bucket")]
    assert [name.split('"')[1] for name in buckets] == [
        "0.02",
        "0.03",
        "0.04",
        "0.05",
        "0.06",
        "0.07",
        "0.08",
        "+Inf",
    ]
    assert not [name for name in values if "_total" in name or "_created" in name]


@pytest.mark.slow
def test_sigterm_lets_conversations_end(tiny_stt: TinyStt) -> None:
    """New connections are refused, an open one gets its marker, the exit code is 0."""
    with WorkerProcess(tiny_stt.server_config.parent, tiny_stt.server_config) as running:
        with SttClient(running.url, API_KEY) as client:
            client.audio(speech(0.8))
            client.until("Step")
            running.process.send_signal(signal.SIGTERM)
            wait_until_refused(running.url)
            assert client.transcribe(speech(0.8))[-1] == {"type": "Marker", "id": 1}
        assert running.end() == 0


@pytest.mark.slow
def test_sigint_tells_and_ends_at_once(tiny_stt: TinyStt) -> None:
    """Open conversations get an Error and 1001, the exit code is 130."""
    with WorkerProcess(tiny_stt.server_config.parent, tiny_stt.server_config) as running:
        with SttClient(running.url, API_KEY) as client:
            running.process.send_signal(signal.SIGINT)
            assert list_until_closed(client) == (
                [{"type": "Error", "message": "the server is shutting down"}],
                1001,
            )
        assert running.end() == 130


def wait_until_refused(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            return
    pytest.fail("the port is still open")
