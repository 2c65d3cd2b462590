"""The processes of a split worker: what they share, and how they begin.

Children are forks of the supervisor. So they inherit the shared memory, and settings that cannot be
sent as text (functions that open engines). Only the supervisor tells them what to do: it also
answers signals to the whole process group, such as Ctrl-C. A child whose supervisor is gone ends at
once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dsmops.audio import FRAME_SAMPLES
from dsmops.worker.runtime.bell import Bell
from dsmops.worker.runtime.stt.lanes import SttLanes
from dsmops.worker.runtime.tts.rings import TtsRings
from dsmops.worker.serving.channel import Channel
from dsmops.worker.serving.lines import MOST_HEADS, Shared
from dsmops.worker.serving.metrics import MetricsBoard
from dsmops.worker.serving.settings import (
    ModuleSettings,
    SttSettings,
    TtsSettings,
    WorkerSettings,
)

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Of `mallopt(3)`."""
_MAPPED_BYTES, _MOST_ARENAS = 256 << 10, 2
CRASHED = 70
"""Exit code of a child that ended with an unforeseen error."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where one model process computes. `env` is set there before anything is loaded."""

    name: str
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the processes of one worker share. Made before any of them."""

    settings: WorkerSettings
    devices: Sequence[Device]
    fronts: int
    shared: Sequence[Sequence[Shared]]
    """For each device, for each module."""
    bells: Sequence[Bell]
    """One for each front."""
    metrics: MetricsBoard

    @classmethod
    def of(cls, settings: WorkerSettings, devices: Sequence[Device], fronts: int) -> Plan:
        """Make what they share."""
        return cls(
            settings,
            devices,
            fronts,
            [[_shared(module) for module in settings.modules] for _ in devices],
            [Bell() for _ in range(fronts)],
            # The supervisor's row comes first, then those of fronts, then those of models.
            MetricsBoard(1 + fronts + len(devices)),
        )

    def front_row(self, front: int) -> int:
        return 1 + front

    def device_row(self, device: int) -> int:
        return 1 + self.fronts + device


def _shared(module: ModuleSettings) -> Shared:
    match module:
        case SttSettings():
            return Shared(SttLanes(module.slots, MOST_HEADS, FRAME_SAMPLES))
        case TtsSettings():
            return Shared(TtsRings(module.slots))
    raise TypeError(f"{type(module).__name__} cannot be served in several processes")


@dataclass(slots=True)
class Child:
    """A process of the worker, as the supervisor sees it."""

    pid: int
    channel: Channel

    def end(self) -> None:
        """End it now."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def reap(self) -> str | None:
        """Return how it ended, None while it runs."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return "it is gone"
        if not pid:
            return None
        if os.WIFSIGNALED(status):
            return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"exit code {os.WEXITSTATUS(status)}"


def start(name: str, main: Callable[[Channel], None], others: Sequence[Channel]) -> Child:
    """Run `main` in a new process, with its end of a channel. It closes the ends of `others`.

    `name` is what `ps -o comm` and `top` call it, of at most 15 characters.
    """
    mine, theirs = Channel.pair()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    with warnings.catch_warnings():
        # The log's thread exists. It holds no lock that a child needs: children log over their
        # channels, and get streams of their own.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        theirs.close()
        return Child(pid, mine)
    code = CRASHED
    try:
        _begin(name, parent)
        mine.close()
        for channel in others:
            channel.close()
        main(theirs)
        code = 0
    except BaseException:  # noqa: BLE001 nothing may get past a fork into the supervisor's own frames
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def return_freed_memory() -> None:
    """Let glibc give memory back when large bodies of requests are freed.

    By default it keeps them in a heap for each thread: a front grew by 51 MiB in a minute of
    attacks, and by 27 with this. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_ARENA_MAX, _MOST_ARENAS)


def _begin(name: str, parent: int) -> None:
    """Make a fork a process of its own."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NAME, name.encode())
        if os.getppid() != parent:
            os._exit(CRASHED)
    # The streams of the supervisor may be locked by its log's thread.
    sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
