"""Workers on a Ray cluster: actors with a card each, or on processors where no node has a card.

They share the run folder, like local processes; only counts come back to the process that started
them. A worker whose process or node dies is started again, wherever the cluster has a place for it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dsmops import __version__
from dsmops.errors import (
    DeviceLostError,
    DsmopsError,
    EnvironmentMissingError,
    InputError,
    RemoteError,
    ResourceError,
)
from dsmops.operations.cluster import Cluster, ClusterNode, connected, own_cluster
from dsmops.operations.models.stt import find_stt
from dsmops.operations.speech.many.executors import POLL_S, Outcomes, Watch, in_rounds
from dsmops.operations.speech.many.model_files import FileServer, ModelFile, describe, staged
from dsmops.operations.speech.many.run_folder import is_begun
from dsmops.operations.speech.many.transcribing import Job, TranscriptionRun, transcribe_many
from dsmops.progress import Progress
from dsmops.units import counted

_START_S = 60.0
"""How long to wait for a place in the cluster while no worker works."""
_LAST_WORDS_S = 30.0
"""How long to wait for the counts of a worker when all recordings are done."""
_NO_WORDS_S = 3.0
"""How long then to wait for one that has no place yet."""
_MOST_STARTS = 3


@dataclass(frozen=True, slots=True)
class Share:
    """How many workers there are, and what each takes of its node."""

    workers: int
    cards: int
    processors: int


def plan_share(nodes: Sequence[ClusterNode], workers: int | None, *, cpu: bool) -> Share:
    """Return the share of each worker: a card; without cards or with `cpu`, processors.

    By default there is a worker for each card; without cards, one for each node.

    Raises:
        ResourceError: the nodes do not have that much.
    """
    cards = 0 if cpu else sum(node.cards for node in nodes)
    if cards:
        count = workers or cards
        if count > cards:
            raise _too_few(count, cards, "card")
        return Share(count, 1, 0)
    processors = [node.processors for node in nodes if node.processors]
    count = workers or max(1, len(processors))
    if count > sum(processors):
        raise _too_few(count, sum(processors), "processor")
    # The most that each can have.
    most = max(
        share
        for share in range(1, max(processors) + 1)
        if sum(have // share for have in processors) >= count
    )
    return Share(count, 0, most)


def _too_few(workers: int, have: int, what: str) -> ResourceError:
    return ResourceError(
        f"{workers} workers need a {what} each, and the Ray cluster has {have}",
        hint="Name fewer with --workers, or add nodes: `ray start --address HOST:PORT`.",
        code="ray.too_few",
    )


class RayActors:
    """Actors on the cluster at `address`; `workers` None is one for each card, or each node."""

    def __init__(self, address: str, workers: int | None = None) -> None:
        self._address = address
        self._workers = workers

    def run(self, job: Job, progress: Progress) -> TranscriptionRun:
        """Return what all actors did together.

        Raises:
            ExtraMissingError, RemoteError, InputError: there is no Ray, no such cluster, or a node
                of it does not have the same folders.
            ResourceError: the cluster has too little, or no place within a minute.
            DsmopsError: as `transcribe_many`, where all workers have failed.
        """
        with connected(self._address) as cluster:
            share = plan_share(cluster.nodes(), self._workers, cpu=job.cpu)
            # What is wrong with them is then said once. And by what is in the folder from now on
            # workers see whether theirs is the same one.
            job.recordings()
            with job.open_folder():
                pass
            job = replace(job, source=find_stt(job.model, progress=progress))
            pool = _Pool(cluster, job, share, progress)
            names = [f"worker {number}" for number in range(1, share.workers + 1)]
            return in_rounds(job, names, pool.work, progress)


class RayWorker:
    """An actor: works on a job until nothing is left for it. `folder` is the working folder."""

    def __init__(self, folder: Path, version: str) -> None:
        self._folder = folder
        self._version = version

    def begin(self, job: Job) -> str | DsmopsError:
        """Return the name of its host, or why it cannot work there."""
        host = socket.gethostname()
        if self._version != __version__:
            return EnvironmentMissingError(
                f"{host} has dsmops {__version__}, and the run was started by {self._version}",
                hint="Install the same version on every node.",
                code="ray.other_version",
            )
        try:
            os.chdir(self._folder)
        except OSError as exc:
            return InputError(
                f"{host} has no folder {self._folder}: {exc.strerror}",
                hint="Start the run in a folder that every node has, such as a network disk.",
                code="ray.no_folder",
            )
        if not is_begun(job.folder):
            return InputError(
                f"{host} does not see the run folder {job.folder}",
                hint="Name an --output-dir that every node has, such as one on a network disk; "
                "with a bucket, a --run-dir.",
                code="ray.not_shared",
            )
        return host

    def work(self, job: Job, home: _Home) -> TranscriptionRun | DsmopsError:
        """Return what it did, or why it could not."""
        cluster = own_cluster()

        def ask(method: str, *arguments: object) -> object:
            return cluster.result(getattr(home.server, method).remote(*arguments))

        try:
            assert job.source is not None  # noqa: S101 `RayActors.run` found it
            return transcribe_many(replace(job, source=staged(job.source, home.files, ask)))
        except DsmopsError as exc:
            return exc


@dataclass(frozen=True, slots=True)
class _Home:
    """The model's files where the run was started, and the actor there that gives them."""

    server: Any
    files: tuple[ModelFile, ...]


@dataclass(slots=True)
class _Slot:
    """A worker: its actor, and what it does now. `host` is None until it has a place."""

    actor: Any
    future: Any
    starts: int = 1
    host: str | None = None


class _Pool:
    """Starts workers, and starts them again where they are lost."""

    def __init__(self, cluster: Cluster, job: Job, share: Share, progress: Progress) -> None:
        self._cluster = cluster
        self._job = job
        self._share = share
        self._progress = progress
        assert job.source is not None  # noqa: S101 `RayActors.run` found it
        files = tuple(describe(job.source))
        paths = [file.path.absolute() for file in files]
        # This process starts it and keeps it: an actor ends with the one that has started it.
        server = cluster.start_helper(FileServer, paths, node_id=cluster.own_node_id())
        self._home = _Home(server, files)

    def work(self, names: Sequence[str]) -> Outcomes:
        """Let these workers work until nothing is left, and return what came of each.

        One that has no place yet, or whose node is silent, has no outcome where the others have
        done everything.
        """
        slots = {name: self._begin() for name in names}
        outcomes: Outcomes = {}
        give_up_s = time.monotonic() + _START_S
        keys = {one.key for one in self._job.recordings()}
        all_done_s: float | None = None
        with self._job.open_folder() as run:
            watch = Watch(run, self._progress)
            try:
                while slots:
                    of = {slot.future: name for name, slot in slots.items()}
                    for future in self._cluster.ready(list(of), POLL_S):
                        name = of[future]
                        outcome = self._next(name, slots)
                        if outcome is not None:
                            outcomes[name] = outcome
                            # Its place is free for one that waits.
                            self._cluster.kill(slots.pop(name).actor)
                    watch.look()
                    now_s = time.monotonic()
                    if all_done_s is None and _has_run(outcomes) and keys <= run.done().keys():
                        all_done_s = now_s
                    working = any(slot.host for slot in slots.values())
                    last_s = _LAST_WORDS_S if working else _NO_WORDS_S
                    if all_done_s is not None and now_s > all_done_s + last_s:
                        break
                    if working:
                        give_up_s = now_s + _START_S
                    elif now_s > give_up_s:
                        return outcomes | dict.fromkeys(slots, self._no_place())
            finally:
                for slot in slots.values():
                    self._cluster.kill(slot.actor)
        return outcomes

    def _begin(self, starts: int = 1) -> _Slot:
        actor = self._cluster.start_actor(
            RayWorker,
            Path.cwd(),
            __version__,
            processors=self._share.processors,
            cards=self._share.cards,
        )
        return _Slot(actor, actor.begin.remote(self._job), starts)

    def _next(self, name: str, slots: dict[str, _Slot]) -> TranscriptionRun | DsmopsError | None:
        """Take the result of a worker's call; return it if it is its last, else call it again."""
        slot = slots[name]
        try:
            found = self._cluster.result(slot.future)
        except DeviceLostError as exc:
            if slot.starts == _MOST_STARTS:
                return exc
            where = f" on {slot.host}" if slot.host else ""
            self._progress.announce([f"{name}{where} is lost and starts again: {exc.message}"])
            slots[name] = self._begin(slot.starts + 1)
            return None
        except RemoteError as exc:
            return exc
        if isinstance(found, str):
            slot.host = found
            slot.future = slot.actor.work.remote(self._job, self._home)
            return None
        outcome: TranscriptionRun | DsmopsError = found
        return outcome

    def _no_place(self) -> ResourceError:
        share = self._share
        needs = "a card" if share.cards else counted(share.processors, "processor")
        return ResourceError(
            f"the Ray cluster had no place for a worker within {_START_S:.0f} s; it needs {needs}",
            hint="`ray status` says who uses the cluster; wait, or name fewer with --workers.",
            code="ray.busy",
        )


def _has_run(outcomes: Outcomes) -> bool:
    return any(isinstance(one, TranscriptionRun) for one in outcomes.values())
