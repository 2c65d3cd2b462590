"""Capturing steps as CUDA graphs, as far as it can be tried without a card."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from dsmops.worker.runtime.capture import capture


class _Stream:
    def wait_stream(self, other: Any) -> None:
        """Streams of this test run one after the other."""


@contextmanager
def _failing_capture(*_: Any, **__: Any) -> Iterator[None]:
    """End like `torch.cuda.graph` after an error in it: with another one."""
    try:
        yield
    finally:
        raise RuntimeError("capturing stream has unjoined work")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_a_capture_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    runs = 0

    def part() -> None:
        nonlocal runs
        runs += 1
        if runs > 3:  # the warm-up passes
            raise error("of the part")

    @contextmanager
    def no_stream(_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", no_stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", _failing_capture)
    with pytest.raises(error, match="of the part"):
        capture(part)
