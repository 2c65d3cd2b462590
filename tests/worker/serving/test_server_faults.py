"""What the server does when clients stall, models fail and times run out: the server itself, with
an engine without a model.
"""

import http.client
import json
import threading
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from dsmops.errors import DeviceLostError, GpuMemoryError, InputError, PortInUseError
from dsmops.logs import Clock, parse
from dsmops.worker.runtime.stt.loop import WARM_UP_STEPS
from dsmops.worker.runtime.stt.stream import MOST_EVENTS, SttStream
from dsmops.worker.serving.addresses import bind, where
from dsmops.worker.serving.settings import Limits
from dsmops.worker.serving.stt import SttModule
from tests.support.engines import EchoEngine
from tests.support.stt_client import FRAME, Message, SttClient
from tests.support.workers import KEY, PATH, ThreadedServer, request

SHORT = Limits(ping_s=0.05, silence_s=0.4, no_audio_s=0.4, stalled_s=0.4, close_s=0.2)


def frames(*tokens: float) -> np.ndarray:
    pcm = np.zeros((len(tokens), FRAME), np.float32)
    pcm[:, 0] = tokens
    return pcm.reshape(-1)


def ending(client: SttClient) -> tuple[list[Message], int | None]:
    """Return what came before the server closed, and its code."""
    messages = []
    try:
        while True:
            messages.append(client.receive())
    except ConnectionClosed:
        return messages, client.ws.close_code


def used_slots(server: ThreadedServer) -> str:
    used: str = json.loads(request(server.url, "GET", "/api/modules_info").body)[0]["used_slots"]
    return used


def raising(exc: Exception, fuse: threading.Event) -> Callable[[int], None]:
    def before_step(_step: int) -> None:
        if fuse.is_set():
            raise exc

    return before_step


@pytest.mark.slow
@pytest.mark.parametrize(
    "raised",
    [DeviceLostError("the GPU failed: gone"), ZeroDivisionError("oops")],
    ids=["device", "bug"],
)
def test_a_dead_model_loop_ends_the_server_with_its_reason(raised: Exception) -> None:
    """Every client gets an error and is closed with 1011, the port is closed, and the error of exit
    code 5 comes out.
    """
    fuse = threading.Event()
    with ThreadedServer(lambda: EchoEngine(before_step=raising(raised, fuse))) as server:
        with SttClient(server.url, KEY) as first, SttClient(server.url, KEY) as second:
            fuse.set()
            first.audio(frames(3))
            for client in (first, second):
                messages, code = ending(client)
                assert code == 1011
                assert [message["type"] for message in messages] == ["Error"]
                assert str(raised) in messages[0]["message"]
        server.join()
        assert server.failure is not None
        assert server.failure.exit_code == 5
        assert str(raised) in server.failure.message
        with pytest.raises(OSError, match="refused"):
            request(server.url, "GET", "/metrics")
    assert (
        'ERROR moshi_server::utils: src/utils.rs:0: task failed name="model_loop" err='
        in server.log
    )


def test_a_model_that_cannot_start_never_listens() -> None:
    """Where moshi-server would listen and never answer."""

    def fail() -> EchoEngine:
        raise GpuMemoryError("no room")

    server = ThreadedServer(fail)
    with pytest.raises(GpuMemoryError, match="no room"):
        server.__enter__()
    server.join()
    assert "listening" not in server.log
    fuse = threading.Event()
    fuse.set()
    server = ThreadedServer(
        lambda: EchoEngine(before_step=raising(DeviceLostError("no kernel"), fuse))
    )
    with pytest.raises(DeviceLostError, match="no kernel"):
        server.__enter__()
    server.join()
    assert "listening" not in server.log


@pytest.mark.slow
def test_broken_numbers_are_told_to_the_one_they_hit() -> None:
    """An Error, 1011, the slot back; the neighbour goes on."""

    class Spoiled(EchoEngine):
        def step(self, pcm, exec_mask):  # type: ignore[no-untyped-def]
            output = super().step(pcm, exec_mask)
            output.finite[pcm[:, 0] == 9] = False
            return output

    with ThreadedServer(Spoiled) as server, SttClient(server.url, KEY) as neighbour:
        with SttClient(server.url, KEY) as client:
            client.audio(frames(3, 9))
            messages, code = ending(client)
            assert (messages[-1]["type"], code) == ("Error", 1011)
            assert "not finite" in messages[-1]["message"]
        neighbour.audio(frames(3))
        assert neighbour.receive()["type"] == "Step"
        assert used_slots(server) == "1"


def test_addresses_that_cannot_be_had() -> None:
    """Named with what to do; IPv6 is an address like any other."""
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(PortInUseError, match=r"port \d+ of 127.0.0.1 is in use"):
            bind("127.0.0.1", taken.getsockname()[1])
        assert where(taken).url == f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(InputError, match="is not an address of this machine"):
        bind("192.0.2.1", 0)
    with pytest.raises(InputError, match="is not an IP address"):
        bind("localhost", 0)
    with bind("::1", 0) as six:
        assert where(six).url == f"http://[::1]:{six.getsockname()[1]}"


@pytest.mark.slow
def test_a_silent_client_is_let_go() -> None:
    """Without any frame for the short time: an Error, 1008, the slot back, and the original's log
    line.
    """
    with ThreadedServer(EchoEngine, limits=Limits(silence_s=0.2, close_s=0.2)) as server:
        with SttClient(server.url, KEY) as client:
            messages, code = ending(client)
            assert code == 1008
            assert messages == [{"type": "Error", "message": "nothing came for 0.2 s"}]
        assert used_slots(server) == "0"
    assert "recv loop short timeout batch_idx=0" in server.log
    assert "shutting down signal=SIGTERM" in server.log


@pytest.mark.slow
def test_a_client_that_only_answers_pings_is_let_go() -> None:
    """Pongs keep a connection for the long time only."""
    with ThreadedServer(EchoEngine, limits=SHORT) as server:
        with SttClient(server.url, KEY) as client:
            messages, code = ending(client)
            assert (messages[-1]["message"], code) == ("no audio came for 0.4 s", 1008)
        assert used_slots(server) == "0"
    assert "recv loop long timeout batch_idx=0" in server.log


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_let_go_and_holds_no_memory() -> None:
    """Its results stop at what buffers hold.

    Its neighbour is stepped on; then it is gone, without waiting for it.
    """
    engine = EchoEngine(heads=200)
    with (
        ThreadedServer(lambda: engine, limits=Limits(stalled_s=0.5, close_s=0.2)) as server,
        SttClient(server.url, KEY) as neighbour,
    ):
        client = SttClient(server.url, KEY, receive_buffer_bytes=4096)
        # websockets reads ahead a little; then the system's buffers fill.
        slot = 1
        try:
            while used_slots(server) == "2":
                client.audio(np.zeros(100 * FRAME, np.float32), samples=100 * FRAME)
        except (OSError, ConnectionClosed):
            pass
        assert used_slots(server) == "1"
        assert len(engine.heard[slot]) < 20_000
        neighbour.audio(frames(3))
        assert neighbour.receive()["type"] == "Step"
    assert "the client read nothing for 0.5 s" in server.log


@pytest.mark.slow
def test_a_slow_reader_misses_nothing() -> None:
    """More results than wait for anyone come in order, to a client that begins to read late."""
    with ThreadedServer(EchoEngine) as server, SttClient(server.url, KEY) as client:
        client.audio(np.full(2 * MOST_EVENTS * FRAME, 3, np.float32), samples=500 * FRAME)
        steps = [client.receive()["step_idx"] for _ in range(2 * MOST_EVENTS)]
        assert steps == list(range(WARM_UP_STEPS, WARM_UP_STEPS + 2 * MOST_EVENTS))


@pytest.mark.slow
def test_a_client_faster_than_the_model_is_not_read() -> None:
    """It cannot send much more than the stream and the system's buffers hold, and all of it is
    processed once the model goes on.
    """
    gate, enough = threading.Event(), threading.Event()
    engine = EchoEngine(
        before_step=lambda step: None if step < WARM_UP_STEPS else (gate.wait(30), None)[1]
    )
    sent: list[int] = []
    with ThreadedServer(lambda: engine) as server, SttClient(server.url, KEY) as client:

        def send() -> None:
            # A system may buffer some 40 MB of a loopback connection; a message is 48 kB.
            while not enough.is_set() and len(sent) < 4000:
                client.audio(np.full(5 * FRAME, 3, np.float32), samples=5 * FRAME)
                sent.append(len(sent))

        sender = threading.Thread(target=send)
        sender.start()
        held = -1
        while held < len(sent):
            held = len(sent)
            sender.join(0.5)
        assert sender.is_alive(), "it goes on sending although nothing is consumed"
        enough.set()
        gate.set()
        steps = [client.receive()["type"] for _ in range(5 * held)]
        sender.join()
        steps += [client.receive()["type"] for _ in range(5 * (len(sent) - held))]
    assert steps == ["Step"] * 5 * len(sent)


@pytest.mark.slow
def test_a_bug_in_one_request_is_that_requests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 for it, the traceback in the log as one event, everybody else served."""
    with ThreadedServer(EchoEngine) as server, SttClient(server.url, KEY) as client:
        with monkeypatch.context() as patch:
            patch.setattr(SttModule, "info", lambda _self: {}["no such key"])
            answer = request(server.url, "GET", "/api/modules_info")
            assert (answer.status, answer.body) == (500, b"")
        client.audio(frames(3))
        assert client.receive()["type"] == "Step"
    events = list(parse(server.log.encode().splitlines(), Clock(UTC)))
    failed = [event for event in events if "KeyError('no such key')" in event.message]
    assert [event.level for event in failed] == ["ERROR"]
    assert "Traceback (most recent call last):" in failed[0].continuation


@pytest.mark.slow
def test_a_bug_in_one_conversation_ends_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Error, 1011, the slot back, the cause in the log."""
    with ThreadedServer(EchoEngine) as server, SttClient(server.url, KEY) as neighbour:
        with SttClient(server.url, KEY) as client, monkeypatch.context() as patch:
            patch.setattr(SttStream, "mark", lambda _self, _id: {}["no such key"])
            client.send({"type": "Marker", "id": 1})
            messages, code = ending(client)
            assert (messages[-1]["message"], code) == ("the server failed; its log says why", 1011)
        assert used_slots(server) == "1"
        neighbour.audio(frames(3))
        assert neighbour.receive()["type"] == "Step"
    assert "KeyError: 'no such key'" in server.log


@pytest.mark.slow
def test_a_session_of_an_unbatched_module_has_an_end() -> None:
    """After its time: an Error and 1008."""
    server = ThreadedServer(EchoEngine, kind="Asr", limits=Limits(session_s=0.2))
    with server, SttClient(server.url, KEY, ready=False) as client:
        messages, code = ending(client)
        assert (messages[-1]["message"], code) == ("the session's 0.2 s are over", 1008)
    assert "ERROR moshi_server::asr: src/asr.rs:0: reached timeout" in server.log


@pytest.mark.slow
def test_after_sigterm_who_does_not_end_is_told() -> None:
    """When the time is over: an Error and 1001.

    What comes on connections that were open already was refused since the signal.
    """
    with ThreadedServer(EchoEngine, drain_s=0.3) as server, SttClient(server.url, KEY) as client:
        kept = http.client.HTTPConnection(*server.url.removeprefix("http://").split(":"))
        statuses: list[int] = []
        while statuses[-1:] in ([], [200]):
            kept.request("GET", "/api/modules_info")
            answer = kept.getresponse()
            answer.read()
            if not statuses:
                server.stop()
            statuses.append(answer.status)
        assert (statuses[0], statuses[-1]) == (200, 503)
        kept.close()
        assert ending(client) == (
            [{"type": "Error", "message": "the server is shutting down"}],
            1001,
        )
        server.join()
        assert server.ended is not None
        assert not server.ended.hangs


@pytest.mark.slow
def test_a_step_that_hangs_does_not_hold_up_the_end() -> None:
    """Clients get an error, and the caller learns that a thread is left behind."""
    gate, entered = threading.Event(), threading.Event()

    def before_step(step: int) -> None:
        if step >= WARM_UP_STEPS:
            entered.set()
            gate.wait(30)

    with (
        ThreadedServer(lambda: EchoEngine(before_step=before_step)) as server,
        SttClient(server.url, KEY) as client,
    ):
        client.audio(frames(3))
        assert entered.wait(10)
        server.stop()
        assert ending(client)[1] == 1001
        server.join()
        assert server.ended is not None
        hung = server.ended.hangs
        gate.set()
        assert hung


@pytest.mark.slow
def test_an_unbatched_module_speaks_its_own_dialect() -> None:
    """No Ready, no answer to Init, steps counted per session, nothing buffered told, no POST, not
    in modules_info.
    """
    with ThreadedServer(EchoEngine, kind="Asr") as server:
        for _ in range(2):
            with SttClient(server.url, KEY, ready=False) as client:
                client.send({"type": "Init"})
                client.audio(frames(3, 0, 4, 3), samples=4 * FRAME)
                messages = client.until("Word")
                assert [
                    message["step_idx"] for message in messages if message["type"] == "Step"
                ] == [0, 1, 2, 3]
                assert {
                    message["buffered_pcm"] for message in messages if message["type"] == "Step"
                } == {0}
        assert request(server.url, "GET", "/api/modules_info").body == b"[]"
        assert request(server.url, "POST", PATH, headers={"kyutai-api-key": KEY}).status == 405
        metrics = request(server.url, "GET", "/metrics").text.splitlines()
        assert [line.split()[2] for line in metrics if line.startswith("# TYPE")] == [
            "http_throttled",
            "http_unauthorized",
            "worker_devices_lost",
            "worker_front_restarts",
        ]


@pytest.mark.slow
def test_static_files_and_nothing_beside_them(tmp_path: Path) -> None:
    """Files and folder indexes; no way out, by name or by link."""
    root = tmp_path / "static"
    (root / "sub").mkdir(parents=True)
    (root / "index.html").write_text("home")
    (root / "sub" / "a.txt").write_text("a")
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    with ThreadedServer(EchoEngine, static_dir=root) as server:
        assert request(server.url, "GET", "/").body == b"home"
        assert request(server.url, "GET", "/sub/a.txt").body == b"a"
        assert request(server.url, "HEAD", "/sub/a.txt").status == 200
        for path in (
            "/sub",
            "/../secret",
            "/%2e%2e/secret",
            "/sub/../../secret",
            "/link",
            "/a%00b",
            "/" + "x" * 5000,
        ):
            assert request(server.url, "GET", path).status == 404, path


@pytest.mark.slow
def test_no_key_and_no_word_gets_into_the_log() -> None:
    """Neither from headers nor from queries, right or wrong."""
    with ThreadedServer(EchoEngine) as server:
        with SttClient(
            server.url,
            None,
            path=f"{PATH}?auth_id={KEY.replace(' ', '%20')}",
            headers={"X-Real-IP": "10.0.0.7"},
        ) as client:
            client.audio(frames(3, 0, 22, 8, 6, 21, 8, 23, 3, 0))
            client.send({"type": "Marker", "id": 5})
            client.audio(frames(3, 3))
            assert "secret" in [message.get("text") for message in client.until("Marker")]
        with SttClient(server.url, KEY) as client:
            client.vanish()
        with SttClient(server.url, KEY) as client:
            client.send(b"garbage")
            ending(client)
    for word in (KEY, KEY.replace(" ", "%20"), "secret"):
        assert word not in server.log
    for expected in (
        "handling batched asr-streaming query",
        'auth_id: Some("<redacted>")',
        "received marker bid=0 id=5",
        'addr="10.0.0.7"',
        "with_data=1",
    ):
        assert expected in server.log
    assert server.log.count('task completed successfully name="recv_loop"') == 1
    assert server.log.count('task failed name="recv_loop"') == 2
