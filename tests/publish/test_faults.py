"""A network that misbehaves: nothing lost, nothing half-published, wrong bytes noticed.

Each test publishes through a relay to a real S3 server and looks at the server directly afterwards.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dsmops.errors import CredentialsError, TransferError
from dsmops.operations.publishing import (
    PublishReport,
    PublishRequest,
    PullReport,
    PullRequest,
    RedactionCheck,
    publish_logs,
    pull_logs,
)
from dsmops.publish import upload
from dsmops.publish.store import StoreOptions
from dsmops.publish.stores import open_store
from tests.publish.conftest import SMALLEST_PART_BYTES, Place
from tests.support.relay import Fault, Relay, Request

CHECK = RedactionCheck(1, lambda _name, _stream: {})
TOMORROW = timedelta(days=1)


class Network:
    """A folder of logs, a store on a real server, and a relay on the way."""

    def __init__(self, root: Path, place: Place, relay: Relay) -> None:
        self.place, self.relay = place, relay
        self.logs, self.root, self.pulls = root / "logs", root, 0
        self.logs.mkdir()

    def write(self, **files: bytes) -> None:
        for name, data in files.items():
            (self.logs / name.replace("_", ".")).write_bytes(data)

    def options(self, url: str, **options: Any) -> StoreOptions:
        defaults = {
            "attempts": 3,
            "workers": 2,
            "part_bytes": SMALLEST_PART_BYTES,
            "timeout_s": 5.0,
        }
        return StoreOptions(endpoint_url=url, **{**defaults, **options})

    def publish(self, **options: Any) -> PublishReport:
        request = PublishRequest(self.place.url, self.logs, self.options(self.relay.url, **options))
        return publish_logs(request, check=CHECK)

    def pull(self, url: str, **options: Any) -> tuple[PullReport, dict[str, bytes]]:
        self.pulls += 1
        output = self.root / f"out-{self.pulls}"
        report = pull_logs(PullRequest(self.place.url, output, self.options(url, **options)))
        return report, {
            path.relative_to(output).as_posix(): path.read_bytes()
            for path in output.rglob("*")
            if path.is_file()
        }

    def published(self) -> dict[str, bytes]:
        """What a reader on a good network gets; every byte of it compared."""
        assert self.place.server is not None
        report, files = self.pull(self.place.server.url)
        assert report.counts["failed"] == 0
        return files

    def written(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.logs.iterdir()}

    def unfinished(self) -> int:
        assert self.place.server is not None
        store = open_store(self.place.url, self.options(self.place.server.url))
        return store.abort_unfinished(datetime.now(UTC) + TOMORROW)


@pytest.fixture
def network(s3: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr("dsmops.publish.s3.store._BACKOFF_MAX_S", 0.0)
    assert s3.server is not None
    with Relay(s3.server.url) as relay:
        yield Network(tmp_path, s3, relay)


def every(number: int, fault: Fault, *methods: str) -> Callable[[Request], Fault | None]:
    """The fault at every `number`th request, of these methods only if any are named."""
    return lambda request: (
        fault
        if request.count % number == 0 and (not methods or request.method in methods)
        else None
    )


def small_files() -> dict[str, bytes]:
    return {f"log_{index}": f"line {index}\n".encode() * 50 for index in range(6)}


PASSING = [
    Fault("status", 500),
    Fault("status", 503),
    Fault("drop"),
    Fault("reset"),
    Fault("lose_answer"),
    Fault("cut"),
    Fault("trickle"),
    Fault("garble_request"),
]


@pytest.mark.fault
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_passing_faults_are_overcome(network: Network, fault: Fault) -> None:
    """With every third request going wrong, all files still arrive, and come back through the same
    relay, byte for byte.
    """
    network.write(**small_files())
    network.relay.fault = every(3, fault)
    report = network.publish(workers=1)
    assert (report.counts["sent"], report.counts["failed"]) == (6, 0)
    # A request on a connection that the relay has just closed counts where it was sent, and never
    # arrives.
    arrived = len(network.relay.seen)
    assert arrived <= report.usage.total_requests <= arrived + arrived // 3
    assert network.published() == network.written()
    pulled, files = network.pull(
        network.relay.url, workers=1
    )  # two could take turns so that one meets every fault
    assert [file.reason for file in pulled.files if file.outcome == "failed"] == []
    assert files == network.written()


@pytest.mark.fault
def test_a_network_cut_after_any_request_leaves_a_whole_state(network: Network) -> None:
    """Cut the network after each request in turn: readers see the old state or the new one, and the
    next run completes it.
    """
    network.write(log_old=b"old\n")
    network.publish()
    for last in range(1, 20):
        network.write(**{f"log_{last}.{index}": f"{last}.{index}\n".encode() for index in range(3)})
        before, start = network.published(), len(network.relay.seen)
        network.relay.fault = lambda request, limit=start + last: (
            Fault("drop") if request.count > limit else None
        )
        try:
            report = network.publish(attempts=1)
        except TransferError:
            report = None
        network.relay.fault = lambda _request: None
        after = network.published()
        assert before.items() <= after.items()
        assert after.items() <= network.written().items()
        if report is not None and report.counts["sent"] == 3:
            break
        network.publish()
        assert network.published() == network.written()
    else:
        raise AssertionError("the run never got through")
    assert network.published() == network.written()


@pytest.mark.slow
def test_wrong_bytes_in_the_store_never_count_as_published(network: Network) -> None:
    """When every body is altered on its way, each upload fails as such, and no manifest names
    it.
    """
    network.write(**small_files())
    network.relay.fault = lambda request: (
        Fault("garble_request") if request.method == "PUT" and "/bodies/" in request.path else None
    )
    report = network.publish()
    assert (report.counts["sent"], report.counts["failed"], report.exit_code, report.manifest) == (
        0,
        6,
        6,
        None,
    )
    assert all("other bytes than were sent" in (file.reason or "") for file in report.files)
    network.relay.fault = lambda _request: None
    network.publish()
    assert network.published() == network.written()


@pytest.mark.slow
def test_wrong_bytes_on_the_way_back_never_become_files(network: Network) -> None:
    """When every body is altered on the way down, each is a failure, and the folder stays empty."""
    network.write(**small_files())
    network.publish()
    network.relay.fault = lambda request: (
        Fault("garble_answer") if "/bodies/" in request.path else None
    )
    report, files = network.pull(network.relay.url)
    assert (report.counts["failed"], report.exit_code, files) == (6, 6, {})


@pytest.mark.slow
def test_one_failing_file_does_not_stop_the_rest(network: Network) -> None:
    """An object that the server will not take is reported, the others are published, the exit code
    is 6.
    """
    network.write(**small_files())
    network.relay.fault = lambda request: (
        Fault("status", 500) if request.path.endswith("/log.3") else None
    )
    report = network.publish()
    assert (report.counts["sent"], report.exit_code) == (5, 6)
    assert [file.name for file in report.files if file.outcome == "failed"] == ["log.3"]
    assert network.published().keys() == network.written().keys() - {"log.3"}


@pytest.mark.fault
def test_a_store_that_went_away_is_not_tried_for_every_file(network: Network) -> None:
    """After ten failures in a row the rest is not tried."""
    network.write(**{f"log_{index:03}": str(index).encode() for index in range(60)})
    network.relay.fault = lambda request: Fault("drop") if "/bodies/" in request.path else None
    report = network.publish(attempts=1)
    assert (report.counts["failed"], report.exit_code) == (60, 6)
    assert sum("/bodies/" in request.path for request in network.relay.seen) < 20
    assert sum("not tried" in (file.reason or "") for file in report.files) > 40


def big(seed: int) -> bytes:
    return random.Random(seed).randbytes(2 * SMALLEST_PART_BYTES + 5)


@pytest.mark.fault
def test_a_part_that_keeps_failing_takes_the_upload_back(network: Network) -> None:
    """When one part cannot be sent, nothing appears under the key and no unfinished upload
    stays.
    """
    network.write(log_big=big(1), log_small=b"small")
    network.relay.fault = lambda request: (
        Fault("status", 500) if "partNumber=2" in request.path else None
    )
    report = network.publish(attempts=2)
    assert (report.counts["sent"], report.counts["failed"]) == (1, 1)
    assert network.published() == {"log.small": b"small"}
    assert network.unfinished() == 0


@pytest.mark.fault
def test_an_upload_that_cannot_be_taken_back_is_named(network: Network) -> None:
    """When the network is gone for good in the middle of a large file, the error carries the
    upload's id, for a later clean-up.
    """
    data = big(2)
    network.write(log_big=data)
    # What begins an upload is a POST, twice where the first one is refused for its checksum.
    network.relay.fault = lambda request: Fault("drop") if request.method != "POST" else None
    store = open_store(network.place.url, network.options(network.relay.url, attempts=1))
    with pytest.raises(TransferError, match="unfinished upload") as caught:
        store.put(
            network.logs / "log.big",
            "bodies/x",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
        )
    assert caught.value.upload_id
    assert caught.value.upload_id in caught.value.message
    assert network.unfinished() == 1
    assert network.unfinished() == 0


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["lose_answer", "drop", "garble_request"])
def test_large_files_survive_passing_faults(network: Network, kind: Any) -> None:
    """Parts and completion survive a request that goes wrong; the object is whole, or was sent
    again.
    """
    network.write(log_big=big(3))
    hit: list[str] = []

    def once_each(request: Request) -> Fault | None:
        what = (
            "complete"
            if request.method == "POST" and "uploadId" in request.path
            else request.path.partition("partNumber=")[2][:1]
        )
        if what and what not in hit and (kind != "garble_request" or what == "1"):
            hit.append(what)
            return Fault(kind)
        return None

    network.relay.fault = once_each
    report = network.publish()
    if kind == "garble_request":
        assert (report.counts["failed"], network.place.kind) == (1, network.place.kind)
        report = network.publish()
    assert report.counts["sent"] == 1
    assert network.published() == network.written()
    assert network.unfinished() == 0


@pytest.mark.fault
def test_a_stalled_server_is_given_up_and_the_next_run_succeeds(network: Network) -> None:
    """A server that holds a request without answering costs the time-out, then the file; nothing of
    it is published.
    """
    network.write(**small_files())
    network.relay.fault = lambda request: (
        Fault("stall") if request.path.endswith("/log.3") else None
    )
    report = network.publish(timeout_s=0.5, attempts=2)
    assert (report.counts["sent"], report.counts["failed"]) == (5, 1)
    network.relay.fault = lambda _request: None
    assert network.publish().counts["sent"] == 1
    assert network.published() == network.written()


@pytest.mark.slow
def test_refused_credentials_end_the_run_at_once(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong secret is a CredentialsError at the first request where the server checks
    signatures.
    """
    if network.place.kind not in ("rclone", "external"):
        pytest.skip("moto, and the fronts before it, check no signatures")
    network.write(**small_files())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(CredentialsError):
        network.publish()
    assert len(network.relay.seen) == 1


@pytest.mark.fault
def test_an_interrupted_run_names_what_arrived(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle still writes a manifest for the files that had arrived, and the next run
    sends only the rest.
    """
    network.write(**{f"log_{index:02}": f"{index}".encode() for index in range(30)})
    original = upload.transfer_each

    def interrupted(*args: Any) -> Iterator[Any]:
        for count, outcome in enumerate(original(*args), start=1):
            yield outcome
            if count == 10:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(upload, "transfer_each", interrupted)
        network.publish()
    arrived = len(network.published())
    assert 10 <= arrived < 30
    assert network.publish().counts["sent"] == 30 - arrived
    assert network.published() == network.written()
