"""Addresses and ports to listen on, and the system's errors about them."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from dsmops.errors import DsmopsError, InputError, PortInUseError, ResourceError


@dataclass(frozen=True, slots=True)
class Listening:
    """The address of a server that is ready."""

    url: str
    addr: str
    port: int


def address_family(addr: str) -> socket.AddressFamily:
    """Return the family of an IP address.

    Raises:
        InputError: `addr` is not an IP address.
    """
    try:
        return socket.AF_INET6 if ipaddress.ip_address(addr).version == 6 else socket.AF_INET
    except ValueError as exc:
        raise InputError(
            f"{addr!r} is not an IP address",
            hint="Use 127.0.0.1, or 0.0.0.0 for every network.",
            code="addr.unusable",
        ) from exc


def bind(addr: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket that is bound to the address and does not listen yet.

    `shared` sockets of one user may have the same port; the system spreads connections over those
    that listen.

    Raises:
        InputError: `addr` is not an IP address of this machine.
        PortInUseError: the port is taken.
        ResourceError: it may not be taken by this user.
    """
    listener = socket.socket(address_family(addr), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        with address_errors(addr, port):
            listener.bind((addr, port))
    except DsmopsError:
        listener.close()
        raise
    return listener


def reserve(addr: str, port: int) -> socket.socket:
    """Return a socket that keeps the address for sockets that share it, and never listens.

    Errors as for `bind`, also where sockets of another worker share the port.
    """
    with bind(addr, port) as alone:
        port = alone.getsockname()[1]
    return bind(addr, port, shared=True)


@contextlib.contextmanager
def address_errors(addr: str, port: int) -> Iterator[None]:
    """Translate the system's errors about an address."""
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} of {addr} is in use",
                hint=f"`ss -ltnp 'sport = :{port}'` shows by which process; or use another --port.",
            ) from exc
        if exc.errno == errno.EADDRNOTAVAIL:
            raise InputError(
                f"{addr} is not an address of this machine",
                hint="`ip addr` lists them.",
                code="addr.unusable",
            ) from exc
        raise ResourceError(
            f"cannot listen on port {port} of {addr}: {os.strerror(exc.errno or 0)}",
            hint="Use a --port of 1024 or above.",
            code="port.refused",
        ) from exc


def where(listener: socket.socket) -> Listening:
    """Return the address that the system gave."""
    addr, port = listener.getsockname()[:2]
    return Listening(
        f"http://[{addr}]:{port}" if ":" in addr else f"http://{addr}:{port}", addr, port
    )
