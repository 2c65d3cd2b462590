"""Rules about access: routes, API keys, the listening address, files served and written."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterator

from dsmops.config.lint.inputs import LintInputs
from dsmops.config.lint.report import ConfigFinding, Findings, finding
from dsmops.config.load import Config, KeyPath
from dsmops.config.modules import Module, modules
from dsmops.config.schema import PUBLIC_TOKEN
from dsmops.config.values import resolve

SHORT_API_KEY_CHARS = 16
"""Shorter keys can be guessed: 16 characters of a 64-letter alphabet are 96 bits."""

_BUILT_IN = {
    ("GET", path): "the server's own"
    for path in ("/api/build_info", "/api/modules_info", "/metrics")
}
_METHODS = {
    "BatchedAsr": "GET POST",
    "PyBatchedAsr": "GET POST",
    "Py": "GET POST",
    "PyPost": "POST",
    "Tts": "POST",
}
_NEEDS_NO_API_KEY = frozenset({"Lm", "PyPost"})


def _routes(module: Module) -> Iterator[tuple[str, str, str]]:
    """Yield method, path and the key that gave it, for every route of a module."""
    for key in ("path", "send_path", "recv_path"):
        path = module.text(key)
        if path is not None and (key == "path") == (module.type != "Mimi"):
            for method in _METHODS.get(module.type, "GET").split():
                yield method, path, key
            if module.type == "Tts":
                yield "GET", f"{path}_streaming", key


def routes(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report routes that make the server panic at start."""
    taken = dict(_BUILT_IN)
    for module in modules(config):
        clashes: dict[str, tuple[str, str]] = {}
        for method, path, key in _routes(module):
            if problem := _path_problem(path):
                clashes[key] = (
                    "bad-path",
                    f'the server panics at start: the route "{path}" {problem}',
                )
            elif (method, _shape(path)) in taken:
                message = (
                    f"{method} {path} is taken already ({taken[method, _shape(path)]}): the server"
                    " panics at start"
                )
                clashes.setdefault(key, ("path-clash", message))
            elif wildcards := _WILDCARD.findall(_without_doubled_braces(path)):
                shown = " and ".join(dict.fromkeys(wildcards))
                shown = shown.replace("\x01", "{{").replace("\x02", "}}")
                message = (
                    f"{shown} in the route stands for any text:"
                    " the module answers to every such path"
                )
                clashes.setdefault(key, ("wildcard-path", message))
            taken.setdefault((method, _shape(path)), ".".join(module.where(key)))
        for key, (code, message) in clashes.items():
            yield finding(config, code, module.where(key), message, _ROUTE_HINTS[code])


_ROUTE_HINTS = {
    "bad-path": "Write it plainly, as /api/asr-streaming.",
    "path-clash": "Give each module a path of its own.",
    "wildcard-path": "Write the braces doubled, {{ and }}, where they belong to the path itself.",
}
_WILDCARD = re.compile(r"\{[^}]*\}")


_SEGMENT = re.compile(r"[^{}]*(?P<capture>\{(?P<rest>\*?)[^}*]+\})?")
"""What may stand between two slashes: text, and one capture `{name}` or `{*name}` at its end."""


def _path_problem(path: str) -> str:
    """Return why the server's router panics at a route, or an empty string.

    The router is axum 0.8.4 on matchit 0.8.4.
    """
    if not path.startswith("/"):
        return "does not begin with a slash"
    if "/:" in path or "/*" in path:
        return "has a part that begins with : or *, the older way to write a capture"
    segments = _without_doubled_braces(path).split("/")
    for number, segment in enumerate(segments, 1):
        found = _SEGMENT.fullmatch(segment)
        if found is None:
            return "has braces that do not form a capture at the end of a part"
        if found["rest"] and number < len(segments):
            return "goes on after a capture of the whole rest"
    return ""


def _shape(path: str) -> str:
    """Return a route without the names of its captures, which do not tell two routes apart."""
    return re.sub(r"\{(\*?)[^}]*\}", r"{\1}", _without_doubled_braces(path))


def _without_doubled_braces(path: str) -> str:
    # They stand for plain ones in a route.
    return path.replace("{{", "\x01").replace("}}", "\x02")


def api_keys(config: Config, given: LintInputs) -> Findings:
    """Report keys that let in every client or none.

    Messages never repeat a key, but for the public one.
    """
    keys = config.values.get("authorized_ids")
    if not isinstance(keys, list):
        return
    here: KeyPath = ("authorized_ids",)
    if not keys and any(module.type not in _NEEDS_NO_API_KEY for module in modules(config)):
        yield finding(
            config,
            "no-api-keys",
            here,
            "authorized_ids is empty: every client is refused",
            "Add a key; `dsmops make-config` makes one.",
        )
    texts = [key for key in keys if isinstance(key, str)]
    for number, key in enumerate(texts, 1):
        if not key.strip():
            yield finding(
                config,
                "empty-api-key",
                here,
                f"key {number} is empty, so a client that sends an empty key gets in",
                "Put a key of your own in its place; `dsmops make-config` makes one.",
            )
        elif key in texts[: number - 1]:
            yield finding(
                config,
                "repeated-api-key",
                here,
                f"key {number} is the same as an earlier one",
                "Remove it.",
            )
        elif key == PUBLIC_TOKEN:
            yield _public_token(config, given)
        elif len(key) < SHORT_API_KEY_CHARS:
            message = f"key {number} has {len(key)} characters, few enough to be guessed"
            yield finding(
                config,
                "short-api-key",
                here,
                message,
                f"Use {SHORT_API_KEY_CHARS} or more random ones.",
            )


def _public_token(config: Config, given: LintInputs) -> ConfigFinding:
    here: KeyPath = ("authorized_ids",)
    if _listens_to_others(given.addr):
        message = (
            f'everybody knows "{PUBLIC_TOKEN}", and {given.addr} is reachable from other machines'
        )
        return finding(
            config,
            "public-token-exposed",
            here,
            message,
            "Put a key of your own in its place, or listen on 127.0.0.1.",
        )
    message = (
        f'everybody knows "{PUBLIC_TOKEN}": any client that reaches the port can use the server'
    )
    return finding(
        config,
        "public-token",
        here,
        message,
        "Fine on 127.0.0.1; put a key of your own in its place elsewhere.",
    )


def exposure(config: Config, given: LintInputs) -> Findings:
    """Report what listening on `addr` means; without it, that this was not judged."""
    if given.addr is None:
        message = (
            "exposure was not judged: the server listens on all interfaces (0.0.0.0) unless told"
            " otherwise"
        )
        yield finding(config, "addr-not-given", (), message, "Give --addr as the server gets it.")
        return
    if _parse_addr(given.addr) is None:
        message = (
            f"--addr {given.addr} is not an IP address: the server listens on ::1 instead, and says"
            " nothing"
        )
        yield finding(config, "bad-addr", (), message, "Give an address such as 127.0.0.1.")
    if not _listens_to_others(given.addr):
        return
    message = (
        f"{given.addr} is reachable from other machines, and the server speaks plain HTTP: keys and"
        " voices travel readable"
    )
    yield finding(
        config,
        "plain-http-exposed",
        (),
        message,
        "Put a TLS proxy in front and listen on 127.0.0.1.",
    )
    for module in modules(config):
        for method, path, key in _routes(module):
            if module.type in _NEEDS_NO_API_KEY or (
                key == "recv_path" and module.table.get("auth_recv") is False
            ):
                message = f"{method} {path} asks for no API key"
                yield finding(
                    config, "open-route", module.where(key), message, "Let the proxy ask for one."
                )


def folders(config: Config, given: LintInputs) -> Findings:
    """Report logs that the server would serve as static files."""
    static, logs = (_folder(config, key, given) for key in ("static_dir", "log_dir"))
    if static is not None and logs is not None and _is_inside(logs, static):
        message = (
            f"log_dir ({logs}) lies in static_dir ({static}), whose files anybody can fetch: logs"
            " hold API keys and texts"
        )
        yield finding(config, "logs-served", ("static_dir",), message, "Keep the two apart.")


def _folder(config: Config, key: str, given: LintInputs) -> str | None:
    value = config.values.get(key)
    if not isinstance(value, str):
        return None
    # An empty value is the working directory.
    return posixpath.normpath(resolve(value, given.environ).text or ".")


def _is_inside(folder: str, other: str) -> bool:
    """Return whether `folder` is `other` or lies in it, as far as the paths alone tell.

    The working directory is not known.
    """
    depth = max(folder.count(".."), other.count("..")) + 1
    nowhere = (
        "/" + "\0/" * depth
    )  # a working directory that no path names, with a parent for each `..`
    inner, outer = (
        posixpath.normpath(posixpath.join(nowhere, path)).lstrip("/") + "/"
        for path in (folder, other)
    )
    return outer == "/" or inner.startswith(outer)


def captures(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report what is written into `log_dir` besides logs."""
    for module in modules(config):
        if module.type in {"Asr", "Lm", "Tts"}:
            message = (
                f"{module.type} writes text, decodable voice tokens and the caller's API key into"
                " log_dir after every session"
            )
            yield finding(
                config,
                "writes-voice",
                module.where("type"),
                message,
                "Protect log_dir, or use BatchedAsr.",
            )
        elif module.type == "BatchedAsr" and "log_frequency_s" in module.table:
            message = "log_frequency_s makes the server write decodable voice tokens into log_dir"
            yield finding(
                config,
                "writes-voice",
                module.where("log_frequency_s"),
                message,
                "Remove it unless the recordings are wanted.",
            )


def instance_name(config: Config, given: LintInputs) -> Findings:
    """Report a name that loses its tail."""
    value = config.values.get("instance_name")
    name = resolve(value, given.environ).text if isinstance(value, str) else ""
    if "." in name:
        message = (
            f"instance_name {name} has a dot: capture files lose what follows the last one, and may"
            " overwrite each other"
        )
        yield finding(
            config,
            "instance-name-dot",
            ("instance_name",),
            message,
            f"Use {name.replace('.', '-')}.",
        )


def _parse_addr(addr: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(addr)
    except ValueError:
        return None


def _listens_to_others(addr: str | None) -> bool:
    address = _parse_addr(addr) if addr is not None else None
    return address is not None and not address.is_loopback
