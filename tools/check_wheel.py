"""Build the wheel, install it into an environment far from the checkout, and use it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Fail with the output of the first step that does not do what an installed dsmops must."""
    with tempfile.TemporaryDirectory(prefix="dsmops-wheel-") as name:
        folder = Path(name)
        _run(
            [
                sys.executable,
                "-m",
                "build",
                "--wheel",
                "--no-isolation",
                "--outdir",
                name,
                str(ROOT),
            ],
            folder,
        )
        wheel = next(folder.glob("*.whl"))
        venv.create(folder / "env", with_pip=True)
        python = str(folder / "env" / "bin" / "python")
        _run(
            [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)],
            folder,
        )
        command = str(folder / "env" / "bin" / "dsmops")
        _run([command, "--version"], folder)
        _run([command, "--help"], folder)
        absent = "import importlib.util as u, sys; sys.exit(bool(u.find_spec('torch')))"
        _run([python, "-c", absent], folder)
        shipped = _run(
            [
                python,
                "-c",
                (
                    "from dsmops.shipped import *; print(shipped_folder('configs'));"
                    " print(shipped_folder('runbooks'))"
                ),
            ],
            folder,
        )
        configs, runbooks = (Path(line) for line in shipped.split())
        assert configs.is_relative_to(folder), configs
        assert list(runbooks.glob("*.md")), runbooks
        for config in ("config-stt-en_fr-hf.toml", "config-stt-en-hf.toml", "config-tts.toml"):
            _run([command, "check-config", str(configs / config)], folder)
        _run([command, "make-config", "--simulate", "t4", "-o", "made.toml"], folder)
        planned = json.loads(_run([command, "plan", "--simulate", "t4", "--json"], folder))
        assert planned["batch_size"] > 0, planned
        print(f"{wheel.name}: installed elsewhere, without torch, and used")
    return 0


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}", file=sys.stderr)
        raise SystemExit(1)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
