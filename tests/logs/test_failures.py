"""Known failures are found in lines as servers write them, and nowhere else."""

import pytest

from dsmops.logs.failures import FAILURES, find_failures

HEAD = "2025-11-15T08:39:16.139607Z ERROR moshi_server::utils: src/utils.rs:197: "

LINES = {
    "kernel-missing": 'stt-1  | DriverError(CUDA_ERROR_NOT_FOUND, "named symbol not found")',
    "ptx-unsupported": "Error: DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION)",
    "kernel-image-missing": (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    ),
    "gpu-out-of-memory": 'Error: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")',
    "gpu-lost": (
        'err=DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")'
    ),
    "driver-refused": (
        'Error: DriverError(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")'
    ),
    "dtype-unparsable": "Error: cannot parse 'float16' as a dtype",
    "checkpoint-mismatch": "Error: cannot find tensor transformer.layers.16.norm1.alpha",
    "checkpoint-damaged": "Error: safetensor error: MetadataIncompleteBuffer",
    "library-missing": (
        "moshi-server: error while loading shared libraries: libpython3.12.so.1.0: cannot open"
        " shared object file"
    ),
    "python-module-missing": "Error: ModuleNotFoundError: No module named 'huggingface_hub'",
    "python-module-mismatch": (
        "TypeError: __init__() got an unexpected keyword argument 'init_scale'"
    ),
    "hub-refused": (
        "Error: request error:"
        " https://huggingface.co/kyutai/tts-1.6b-en_fr/resolve/main/config.json: status code 401"
    ),
    "hub-unreachable": (
        "Error: request error: https://huggingface.co/a/b/resolve/main/c: Dns Failed: resolve dns"
        " name 'huggingface.co:443'"
    ),
    "file-missing": "Error: No such file or directory (os error 2)",
    "port-taken": "Error: Address already in use (os error 98)",
    "numbers-not-finite": (
        'task failed name="recv_loop" err=the model gave numbers that are not finite for this'
        " stream"
    ),
    "panic": "thread '<unnamed>' panicked at src/tts.rs:301:14:",
    "model-loop-dead": 'task failed name="model_loop" err=something else',
    "no-free-channels": "no free channels",
    "client-silent": "recv loop short timeout batch_idx=3",
    "client-without-audio": "recv loop long timeout batch_idx=3",
    "server-error": 'Error: invalid type: string "x", expected a sequence',
    "public-key-used": (
        'batched-asr ws query query=AsrStreamingQuery { auth_id: Some("public_token") }'
    ),
    "key-in-log": (
        'batched-asr ws query query=AsrStreamingQuery { auth_id: Some("0b4c-tell-nobody") }'
    ),
}


def test_there_is_a_line_for_each_failure() -> None:
    """The lines below are about every failure of the table."""
    assert LINES.keys() == FAILURES.keys()


@pytest.mark.parametrize("name", LINES)
def test_a_failure_is_found_by_its_line(name: str) -> None:
    """It is named, first seen on the line it stands on, and the line is its evidence."""
    seen = {
        each.name: each
        for each in find_failures([b"starting worker num_workers=4", LINES[name].encode()])
    }
    assert seen[name].line == 2
    assert seen[name].count == 1
    assert seen[name].evidence


def test_a_line_tells_cause_and_consequence() -> None:
    """The line of 0.6.4 names both, the cause first.

    That of 0.6.3 is understood too, and each failure is counted.
    """
    modern = (
        'task failed name="model_loop" err=DriverError(CUDA_ERROR_NOT_FOUND, "named symbol not'
        ' found")'
    )
    older = 'model loop err err=DriverError(CUDA_ERROR_NOT_FOUND, "named symbol not found")'
    seen = find_failures([f"{HEAD}{line}".encode() for line in (modern, older)])
    assert [(each.name, each.count, each.line) for each in seen] == [
        ("kernel-missing", 2, 1),
        ("model-loop-dead", 2, 1),
    ]


def test_a_missing_library_is_no_missing_file() -> None:
    """The loader's words about a library end like those about any file."""
    line = (
        b"error while loading shared libraries: libpython3.12.so.1.0: cannot open shared object"
        b" file: No such file or directory"
    )
    assert [each.name for each in find_failures([line])] == ["library-missing"]


def test_colours_do_not_hide_a_failure() -> None:
    """The server writes colours between a field's name and its value."""
    line = (
        '\x1b[31mERROR\x1b[0m task failed \x1b[3mname\x1b[0m\x1b[2m=\x1b[0m"model_loop"'
        " \x1b[3merr\x1b[0m\x1b[2m=\x1b[0mx"
    )
    assert [each.name for each in find_failures([line.encode()])] == ["model-loop-dead"]


def test_what_a_client_says_is_no_failure() -> None:
    """A text to be spoken that quotes an error changes no diagnosis."""
    said = (
        'handling py streaming post query Json(TtsQuery { text: "CUDA_ERROR_NOT_FOUND, out of'
        ' memory, panicked", voice: "a.wav" })'
    )
    assert (
        find_failures(
            [f"2025-11-15T08:39:16.139607Z  INFO moshi_server: src/main.rs:700: {said}".encode()]
        )
        == []
    )


@pytest.mark.slow
def test_evidence_holds_no_secrets() -> None:
    """Keys and home folders are redacted in what is shown, long lines are cut, and bytes that are
    not text are spelled out.
    """
    secret = b'\xff auth_id: Some("0b4c-tell-nobody") /home/alice/x ' + b"y" * 100_000
    (seen,) = find_failures([secret])
    assert b"tell-nobody" not in seen.evidence.encode()
    assert "alice" not in seen.evidence
    assert seen.evidence.startswith("\\xff")
    assert len(seen.evidence) <= 300


def test_what_is_redacted_already_is_no_leak() -> None:
    """Lines of the worker, and of a formatted log, hold no key."""
    assert (
        find_failures(
            [
                b'query=AsrStreamingQuery { auth_id: Some("<redacted>") }',
                b'auth_id: Some("<key:11d02ca1>")',
            ]
        )
        == []
    )


def test_every_failure_says_what_to_do() -> None:
    """Meaning and fix are there, and an issue is written as repository and number."""
    for failure in FAILURES.values():
        assert failure.meaning
        assert failure.fix
        assert failure.upstream_issue is None or failure.upstream_issue.split("#")[1].isdigit()
