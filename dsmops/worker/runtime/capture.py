"""CUDA graphs: record a part of a step once, then replay it as one launch.

A replay needs neither Python nor the allocator. What is captured reads and writes tensors that stay
in place, and neither allocates outside of the graph's pool nor waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Part = Callable[[], None]
"""A part of a step: reads its inputs from tensors in place, and leaves its outputs in such ones."""

_WARM_UP_RUNS = 3
"""Eager runs before a graph is captured: libraries choose their kernels and take their workspaces
in the first ones."""


def capture(*parts: Part, stream: torch.cuda.Stream | None = None) -> list[Part]:
    """Return what replays each of `parts` on the current CUDA device, in order.

    Each runs a few times for that. The caller marks no row as active, so that every stream stays at
    its start.

    Graphs of one call share their memory, and must run one after the other. Those of another call
    may run beside them if they were captured on another `stream`: libraries have their workspaces
    by stream.
    """
    # One pool for all graphs: none leaves anything in it that another reads.
    pool = torch.cuda.graph_pool_handle()
    replays: list[Part] = []
    # One stream for both, whose workspace the graph then uses: 32 MiB on Hopper cards.
    stream = stream or torch.cuda.Stream()
    for part in parts:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                part()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        cause: BaseException | None = None
        try:
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                try:
                    part()
                except BaseException as exc:
                    cause = exc
                    raise
        except RuntimeError:
            # Ending a failed capture raises again and hides the first error, often too little
            # memory.
            if cause is not None:
                raise cause from None
            raise
        replays.append(graph.replay)
    return replays
