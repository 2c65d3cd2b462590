"""The server of `up` as people read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dsmops.operations.up.control import Server
from dsmops.units import counted, size


def show_server(server: Server, *, has_key: bool) -> Iterator[str]:
    """Yield where the server is, what it serves, and what to type next."""
    if not server.running:
        yield server.reason
        yield "Start one: dsmops up"
        return
    state = "started" if server.is_new else f"runs since {server.started_at}"
    yield f"server   {server.url or 'no address yet'} ({state}, process {server.pid})"
    if not server.ready:
        yield f"         not ready: {server.reason}"
    if server.page:
        yield f"page     {server.page}"
    if has_key:
        yield f"key      {server.api_key}"
    yield f"config   {server.config}"
    yield f"log      {server.log}"
    yield from (f"model    {_model(one)}" for one in server.models)
    yield from (f"note     {note}" for note in server.notes)
    if has_key:
        yield ""
        yield from server.commands
        yield "dsmops down"


def _model(model: dict[str, Any]) -> str:
    engines = ", ".join(
        f"{engine['device_name']} ({engine['device']}), {engine['dtype']}"
        + (f", {size(engine['memory_bytes'])}" if engine.get("memory_bytes") else "")
        for engine in model.get("engines", [])
    )
    slots = f"{model.get('used_slots')} of {counted(model.get('slots', 0), 'stream')}"
    return f"{model.get('id')}: {slots}" + (f", {engines}" if engines else "")
