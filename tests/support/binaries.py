"""Programs that stand for servers: shell scripts that answer `--help` as each server does, and
files with the bytes of one.
"""

from __future__ import annotations

from pathlib import Path

# What clap prints for the argument structures of moshi-server, upstream and fork.
_HELP = """Kyutai moshi server

Usage: moshi-server <COMMAND>

Commands:
  validate
  configs
  worker
  help      Print this message or the help of the given subcommand(s)

Options:
  -h, --help  Print help
"""
_WORKER_HELP = """Usage: moshi-server worker [OPTIONS] --config <CONFIG>

Options:
  -l, --log <LOG_LEVEL>  [default: info]
  -p, --port <PORT>      [default: 8080]
"""
_FORK_HELP = _WORKER_HELP + "      --log-style <LOG_STYLE>  [default: pretty]\n"


def write_server(path: Path, *, fork: bool = False) -> Path:
    """Write a script that answers `--help` and `worker --help` as moshi-server does, or its fork,
    and refuses everything else.
    """
    return write_script(
        path,
        f"""case "$*" in
--help) /bin/cat <<'EOF'
{_HELP}EOF
;;
"worker --help") /bin/cat <<'EOF'
{_FORK_HELP if fork else _WORKER_HELP}EOF
;;
*) echo "error: unexpected argument"; exit 2;;
esac
""",
    )


def write_script(path: Path, body: str, *, interpreter: str = "/bin/sh") -> Path:
    """Write an executable script."""
    path.write_text(f"#!{interpreter}\n{body}", encoding="utf-8")
    path.chmod(0o755)
    return path


def write_machine_code(path: Path, *contents: bytes) -> Path:
    """Write an executable file that looks like a program to a reader, and that no system starts."""
    path.write_bytes(b"\x7fELF" + b"\0".join((bytes(64), *contents, b"")))
    path.chmod(0o755)
    return path
