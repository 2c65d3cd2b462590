"""A server's binary is known by its help and its file, whatever it does when it is started."""

import sys
from pathlib import Path

import pytest

from dsmops.devices import ComputeCapability
from dsmops.errors import InputError, SourceError
from dsmops.operations.server_binary import Binary, BinaryKind, find_binary, identify_binary
from tests.support.binaries import write_machine_code, write_script, write_server

UPSTREAM = b"Kyutai moshi server"
RELEASE = b"/home/ci/.cargo/registry/src/x-1949/moshi-server-0.6.3/src/main.rs"
PTX_75 = b"//\n.version 8.4\n.target sm_75\n.address_size 64\n"


def test_upstream_and_fork_are_told_apart_by_their_help(tmp_path: Path) -> None:
    """A script in front of a server answers as the server does; its file shows nothing more."""
    upstream, fork = (
        identify_binary(write_server(tmp_path / f"server-{fork}", fork=fork))
        for fork in (False, True)
    )
    assert upstream.kind is BinaryKind.UPSTREAM
    assert upstream.subcommands == ("validate", "configs", "worker")
    assert upstream.can_serve
    assert upstream.has_dtype_override is None
    assert fork.kind is BinaryKind.FORK


def test_dsmops_itself_can_stand_for_the_server(tmp_path: Path) -> None:
    """Its worker takes the same flags, and it says its version."""
    found = identify_binary(
        write_script(tmp_path / "dsmops", f'exec {sys.executable} -m dsmops "$@"'), time_limit_s=30
    )
    assert (found.kind, found.can_serve, found.has_dtype_override) == (
        BinaryKind.DSMOPS,
        True,
        True,
    )
    assert found.version


def test_the_python_program_of_the_same_name_is_not_started(tmp_path: Path) -> None:
    """It would import torch and then refuse the subcommand: its script is enough."""
    witness = tmp_path / "started"
    script = write_script(
        tmp_path / "moshi-server",
        f"open({str(witness)!r}, 'w')\nfrom moshi.server import main\n",
        interpreter=sys.executable,
    )
    found = identify_binary(script)
    assert found.kind is BinaryKind.PYTHON
    assert not found.can_serve
    assert not witness.exists()


def test_a_file_that_does_not_start_is_known_by_its_bytes(tmp_path: Path) -> None:
    """Release, override, cards and toolkit are found wherever a piece of the file ends."""
    found = identify_binary(
        write_machine_code(
            tmp_path / "moshi-server",
            bytes((8 << 20) - 100),
            UPSTREAM,
            b"dtype_override",
            RELEASE,
            b".target sm_80",
            PTX_75,
        )
    )
    assert found.kind is BinaryKind.UPSTREAM
    assert found.has_dtype_override is True
    assert found.version == "0.6.3"
    assert found.architectures == (ComputeCapability(7, 5), ComputeCapability(8, 0))
    assert found.cuda_toolkit == "12.4"
    assert found.problem is not None
    assert not found.can_serve


def test_a_server_from_before_the_override_lacks_the_word(tmp_path: Path) -> None:
    """Absent from the machine code, the key is unknown to the server."""
    assert (
        identify_binary(
            write_machine_code(tmp_path / "moshi-server", UPSTREAM, RELEASE)
        ).has_dtype_override
        is False
    )


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    """The loader's words are understood."""
    said = (
        "moshi-server: error while loading shared libraries: libpython3.12.so.1.0: "
        "cannot open shared object file"
    )
    found = identify_binary(write_script(tmp_path / "moshi-server", f"echo '{said}' >&2; exit 127"))
    assert found.missing_library == "libpython3.12.so.1.0"
    assert "127" in (found.problem or "")


@pytest.mark.slow
def test_a_program_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """Neither silence nor endless output holds the caller up, and nothing stays behind."""
    for body in ("sleep 1000 & echo $! > child; wait", "echo $$ > child; exec yes"):
        found = identify_binary(
            write_script(tmp_path / "server", f"cd {tmp_path}\n{body}"), time_limit_s=1
        )
        assert found.kind is BinaryKind.UNKNOWN
        assert "did not end" in (found.problem or "")
        child = int((tmp_path / "child").read_text())
        assert any(is_gone(child) for _ in range(100_000))


def is_gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie that was not reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_other_programs_are_unknown(tmp_path: Path) -> None:
    """A program with other help is not a server."""
    assert (
        identify_binary(write_script(tmp_path / "git", "echo usage: git")).kind
        is BinaryKind.UNKNOWN
    )


@pytest.mark.parametrize("what", ["absent", "folder", "text"])
def test_what_is_no_program_is_refused(tmp_path: Path, what: str) -> None:
    """With one error that names it."""
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("hello")
    with pytest.raises(SourceError if what == "absent" else InputError, match=what):
        identify_binary(path)


def test_a_binary_is_found_where_cargo_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH comes first, then the folder that cargo installs into, which login shells often lack."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for folder in (tmp_path / ".cargo" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        server = write_server(folder / "moshi-server-x")
        assert find_binary("moshi-server-x") == server


@pytest.mark.parametrize(
    ("version", "has_dtype_override", "architectures", "said"),
    [
        (None, True, ("sm_75",), "0.6.4 or newer, knows dtype_override, kernels for sm_75"),
        (None, False, (), "older than 0.6.4, ignores dtype_override"),
        (
            "0.6.4",
            True,
            ("sm_75", "sm_90"),
            "0.6.4, knows dtype_override, kernels for sm_75, sm_90",
        ),
        (None, None, (), "of unknown version"),
    ],
)
def test_a_build_without_a_version_is_described_by_what_is_known(
    version: str | None, has_dtype_override: bool | None, architectures: tuple[str, ...], said: str
) -> None:
    """`dtype_override` came with 0.6.4, so its presence bounds the release."""
    binary = Binary(
        "moshi-server",
        BinaryKind.UPSTREAM,
        version,
        has_dtype_override,
        architectures=tuple(map(ComputeCapability.parse, architectures)),
    )
    assert ", ".join([binary.release, *binary.abilities]) == said
