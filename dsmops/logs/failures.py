"""The known failures of a speech server: a table of signatures, and a search for them.

They appear in its log and on its console. A signature is distinguished from the same words of a
client: a line is searched once its personal parts are gone, texts to be spoken among them. Only the
two that *are* such parts, keys in the log, are searched for in the line as it was.

Sources: the messages of moshi-server 0.6.3 and 0.6.4, candle 0.9.1, hf-hub 0.4.3, cudarc and torch;
issues are public reports.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from dsmops.findings import Severity
from dsmops.logs.plain_text import clean, decode
from dsmops.logs.redaction import Redactor

_MOST_EVIDENCE_CHARS = 300
_MOST_LINE_BYTES = 64 << 10
"""Of a longer line only the beginning is searched: no signature stands behind that much."""


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """One failure with a name of its own. `name` is stable, for scripts and runbooks.

    `meaning` says what happened, `fix` what to do about it, as a command where there is one.
    `upstream_issue` is a public report of it (`kyutai-labs/moshi#355`), None where there is none we
    know. `runbook` is the page, with the heading where the page has several.
    """

    name: str
    severity: Severity
    pattern: re.Pattern[str]
    meaning: str
    upstream_issue: str | None
    fix: str
    runbook: str
    is_secret: bool = False
    """Whether what the pattern finds is itself a secret, which redaction would take away."""


@dataclass(frozen=True, slots=True)
class FailureSeen:
    """A known failure in a log: how often, on which line first (from 1), and that line.

    The line is redacted and cut.
    """

    name: str
    count: int
    line: int
    evidence: str


_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_TABLE = (
    # Causes stand before what they lead to: where one line tells both, the cause is named first.
    KnownFailure(
        "kernel-missing",
        _ERROR,
        re.compile(r"CUDA_ERROR_NOT_FOUND|named symbol not found"),
        "the server looked for a kernel that its build does not hold: bf16 on a card older than "
        "Ampere, most likely",
        "kyutai-labs/moshi#355",
        'Set `dtype_override = "f16"` with a server from 0.6.4 on: `dsmops prep-sm75`.',
        "cuda-error-not-found.md",
    ),
    KnownFailure(
        "ptx-unsupported",
        _ERROR,
        re.compile(
            r"CUDA_ERROR_UNSUPPORTED_PTX_VERSION|PTX was compiled with an unsupported toolchain"
        ),
        "the server was built with a CUDA toolkit newer than the driver runs",
        "kyutai-labs/moshi#303",
        "Update the driver, or build with a toolkit that it runs: `dsmops check-gpu` names the "
        "newest.",
        "server-binary.md#ptx-unsupported",
    ),
    KnownFailure(
        "kernel-image-missing",
        _ERROR,
        re.compile(
            r"CUDA_ERROR_NO_BINARY_FOR_GPU|CUDA_ERROR_INVALID_PTX|no kernel image is available"
        ),
        "the server, or its torch, was built for other cards than this one",
        None,
        "Build the server for this card, or install a torch that has kernels for it: `dsmops "
        "check-gpu` says which.",
        "server-binary.md#kernel-image-missing",
    ),
    KnownFailure(
        "gpu-out-of-memory",
        _ERROR,
        re.compile(
            r"CUDA_ERROR_OUT_OF_MEMORY|CUDA out of memory|OutOfMemoryError"
            r"|CUBLAS_STATUS_ALLOC_FAILED"
        ),
        "the card has no room for the model and its slots",
        "kyutai-labs/moshi#54",
        "See what fits: `dsmops plan`.",
        "out-of-memory-8gb.md",
    ),
    KnownFailure(
        "gpu-lost",
        _ERROR,
        re.compile(
            r"CUDA_ERROR_(?:ILLEGAL_ADDRESS|LAUNCH_FAILED|ECC_UNCORRECTABLE|HARDWARE_STACK_ERROR)"
            r"|illegal memory access|unspecified launch failure|GPU has fallen off the bus"
        ),
        "the card stopped working while the server used it",
        None,
        "Look for the reason in `sudo dmesg | grep -i -e xid -e nvrm`, then restart the server.",
        "gpu-not-usable.md#gpu-lost",
    ),
    KnownFailure(
        "driver-refused",
        _ERROR,
        re.compile(
            r"CUDA_ERROR_(?:NO_DEVICE|SYSTEM_DRIVER_MISMATCH|SYSTEM_NOT_READY"
            r"|COMPAT_NOT_SUPPORTED_ON_DEVICE|DEVICE_UNAVAILABLE|UNKNOWN)"
            r"|CUDA driver version is insufficient|driver on your system is too old"
            r"|Found no NVIDIA driver"
        ),
        "the driver gave the server no card",
        None,
        "Ask what is the matter with it: `dsmops check-gpu`.",
        "gpu-not-usable.md#driver-refused",
    ),
    KnownFailure(
        "dtype-unparsable",
        _ERROR,
        re.compile(r"cannot parse '[^']*' as a dtype"),
        "`dtype_override` holds a spelling that the server does not know",
        None,
        "Write `f16`, `bf16` or `f32`, lower case: `dsmops check-config` names the line.",
        "cuda-error-not-found.md",
    ),
    KnownFailure(
        "checkpoint-mismatch",
        _ERROR,
        re.compile(r"cannot find tensor |shape mismatch for "),
        "the checkpoint and the config's `model` table are of different models",
        None,
        "Compare them: `dsmops check-config CONFIG`, `dsmops inspect CHECKPOINT`.",
        "model-files.md#checkpoint-mismatch",
    ),
    KnownFailure(
        "checkpoint-damaged",
        _ERROR,
        re.compile(
            r"MetadataIncompleteBuffer|InvalidHeader(?:Length|Start|Deserialization|\b)"
            r"|HeaderTooLarge|HeaderTooSmall"
            r"|incomplete metadata, file not fully covered"
        ),
        "a checkpoint is cut off, or is something else",
        None,
        "Look at it: `dsmops inspect CHECKPOINT`; then download or convert it again.",
        "model-files.md#checkpoint-damaged",
    ),
    KnownFailure(
        "library-missing",
        _ERROR,
        re.compile(r"error while loading shared libraries: |cannot open shared object file"),
        "a shared library that the server needs is not where the loader looks; libpython most "
        "often",
        None,
        "Ask which: `dsmops doctor --moshi-bin moshi-server`.",
        "server-binary.md#library-missing",
    ),
    KnownFailure(
        "python-module-missing",
        _ERROR,
        re.compile(r"ModuleNotFoundError: No module named"),
        "the Python that the server runs in itself lacks a package that its script imports",
        "kyutai-labs/moshi#345",
        "Start the server from an environment that has the `moshi` package and what it needs.",
        "server-binary.md#python-module-missing",
    ),
    KnownFailure(
        "python-module-mismatch",
        _ERROR,
        re.compile(r"TypeError: .*unexpected keyword argument"),
        "the server's script and the installed `moshi` package are of different versions",
        "kyutai-labs/unmute#38",
        "Install the version that the server's pyproject.toml pins: moshi 0.2.13 for 0.6.4.",
        "server-binary.md#python-module-mismatch",
    ),
    KnownFailure(
        "hub-refused",
        _ERROR,
        re.compile(
            r"huggingface\.co\S*: status code 40[134]|40[134] Client Error|GatedRepoError"
            r"|RepositoryNotFoundError"
        ),
        "the hub refused a file: the token is wrong or lacks access, or the repository does not"
        " exist",
        "kyutai-labs/delayed-streams-modeling#119",
        "See what the hub says to this machine: `dsmops doctor`.",
        "model-files.md#hub-refused",
    ),
    KnownFailure(
        "hub-unreachable",
        _ERROR,
        re.compile(
            r"huggingface\.co\S*: (?:Dns Failed|Connection Failed|Network Error)"
            r"|LocalEntryNotFoundError|OfflineModeIsEnabled"
            r"|Max retries exceeded with url: \S*/resolve/"
        ),
        "the hub could not be reached, and a file is not in the cache",
        None,
        "Fetch the files where there is a network, or name local ones in the config: `dsmops "
        "prep-sm75`.",
        "model-files.md#hub-unreachable",
    ),
    KnownFailure(
        "file-missing",
        _ERROR,
        # The server prints nothing but the path of a tokenizer that it cannot read.
        re.compile(
            r"(?<!shared object file: )No such file or directory|^Error: \S+\.(?:model"
            r"|safetensors)$"
        ),
        "a file that the config names is not there, or cannot be read",
        None,
        "Ask which: `dsmops check-config CONFIG`.",
        "model-files.md#file-missing",
    ),
    KnownFailure(
        "port-taken",
        _ERROR,
        re.compile(r"Address already in use|AddrInUse"),
        "another process listens on the server's port",
        None,
        "Ask who: `dsmops doctor --port PORT`; or give the server another: `--port`.",
        "port-taken.md",
    ),
    KnownFailure(
        "numbers-not-finite",
        _ERROR,
        re.compile(r"numbers that are not finite"),
        "the model gave NaN or infinity: damaged weights, or activations that do not fit f16",
        None,
        "Find the layer: `dsmops verify SOURCE TARGET --numerics AUDIO`.",
        "fp16-numerics.md",
    ),
    KnownFailure(
        "panic",
        _ERROR,
        re.compile(r"thread '[^']*'.{0,40} panicked at"),
        "a thread of the server ended in a way its authors did not foresee; what it did is no "
        "longer done",
        None,
        "Read the line after it, and restart the server.",
        "dead-model-loop.md#panic",
    ),
    KnownFailure(
        "model-loop-dead",
        _ERROR,
        # In turn: 0.6.4, 0.6.3, the Python modules.
        re.compile(
            r'task failed name="?model_loop"?|model loop err|model loop or post-process err'
        ),
        "the loop that steps the model died; the server goes on listening, and no client will "
        "ever get `Ready`",
        "kyutai-labs/delayed-streams-modeling#74",
        "Remove the cause, which the same line or the one before names, and restart the server.",
        "dead-model-loop.md#model-loop-dead",
    ),
    KnownFailure(
        "no-free-channels",
        _WARNING,
        re.compile(r"no free channels"),
        "every slot was taken: by clients, or by the dead connections of a model loop that died",
        "kyutai-labs/unmute#142",
        "See whether slots come back: `dsmops smoke-test --url URL`; more of them: `dsmops plan`.",
        "capacity-and-close-codes.md#no-free-channels",
    ),
    KnownFailure(
        "client-silent",
        _NOTE,
        re.compile(r"recv loop short timeout|reached timeout"),
        "clients were dropped: 20 s without a frame of any kind, not even a ping",
        None,
        "Let clients send pings while they wait. On a server that is behind, look at its step "
        "times first.",
        "capacity-and-close-codes.md#client-silent",
    ),
    KnownFailure(
        "client-without-audio",
        _NOTE,
        re.compile(r"recv loop long timeout"),
        "clients were dropped: 120 s without audio, though they sent pings",
        None,
        "Let clients send silence, or an empty `Audio`, in pauses; or close and connect again.",
        "capacity-and-close-codes.md#client-without-audio",
    ),
    KnownFailure(
        "server-error",
        _ERROR,
        re.compile(r"^Error: \S"),
        "the server ended with an error, as a rule at its start",
        None,
        "Read the line; `dsmops check-config CONFIG` and `dsmops doctor` look for the cause.",
        "dead-model-loop.md#server-error",
    ),
    KnownFailure(
        "public-key-used",
        _WARNING,
        re.compile(r"\bpublic_token\b"),
        "a client came in with the key of the published configs, which everybody knows",
        None,
        "Give the config a key of its own: `dsmops make-config`.",
        "sharing-logs.md#keys-in-a-log",
        is_secret=True,
    ),
    KnownFailure(
        "key-in-log",
        _WARNING,
        re.compile(r'auth_id: Some\("(?!<|public_token")|[?&]auth_id=(?!<|public_token\b)\S'),
        "API keys of clients stand in this log",
        None,
        "Share it formatted only: `dsmops format-log LOG`; let clients send the key as the "
        "header `kyutai-api-key`.",
        "sharing-logs.md#keys-in-a-log",
        is_secret=True,
    ),
)

FAILURES = {failure.name: failure for failure in _TABLE}
"""Every failure that `find_failures` can find, by name."""

_STEP_FIELD = b"step_idx"
"""A field in the line of every step. There are millions of such lines, without failures; to skip
them is 20 times faster."""
_ANY = re.compile("|".join(failure.pattern.pattern for failure in _TABLE))


def find_failures(lines: Iterable[bytes]) -> list[FailureSeen]:
    """Return the known failures in lines without line ends, in order of first appearance.

    Never raises for the content of lines. Colours do not matter, nor do invalid bytes. Evidence is
    redacted with a key that is not kept.
    """
    redactor: Redactor | None = None
    seen: dict[str, FailureSeen] = {}
    for number, raw in enumerate(lines, start=1):
        if _STEP_FIELD in raw:
            continue
        line = clean(decode(raw[:_MOST_LINE_BYTES]))
        if not _ANY.search(line):
            continue
        redactor = redactor or Redactor(secrets.token_bytes(16))
        shown = redactor.fresh().line(line)
        known = [
            failure
            for failure in _TABLE
            if failure.pattern.search(line if failure.is_secret else shown)
        ]
        # That the server ended needs no line of its own where the reason is known.
        if len(known) > 1:
            known = [failure for failure in known if failure.name != "server-error"]
        for failure in known:
            before = seen.get(failure.name)
            seen[failure.name] = (
                FailureSeen(failure.name, before.count + 1, before.line, before.evidence)
                if before
                else FailureSeen(failure.name, 1, number, shown[:_MOST_EVIDENCE_CHARS])
            )
    return list(seen.values())
