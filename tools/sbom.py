"""`python -m tools.sbom [FILE]`: write the SBOM (CycloneDX, JSON) of dsmops with its worker.

`cyclonedx-py` describes all that is installed beside this Python. What only development needs is
taken out: it is not part of what users install.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "dist" / "dsmops.cdx.json"


def normal(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def shipped_requirements() -> set[str]:
    """Return the packages that `dsmops[worker]` requires itself."""
    return {
        normal(re.split(r"[^\w.-]", line)[0])
        for line in requires("dsmops") or ()
        if "extra ==" not in line or re.search(r"extra == ['\"]worker['\"]", line)
    }


def shipped_only(bom: dict[str, Any], required: Iterable[str]) -> dict[str, Any]:
    """Return the BOM with what `required` needs, and what that needs, and nothing else."""
    names = {part["bom-ref"]: normal(part["name"]) for part in bom["components"]}
    needs = {each["ref"]: each.get("dependsOn", []) for each in bom["dependencies"]}
    wanted = set(required)
    first = [ref for ref, name in names.items() if name in wanted]
    kept: set[str] = set()
    todo = list(first)
    while todo:
        ref = todo.pop()
        if ref not in kept:
            kept.add(ref)
            todo += needs.get(ref, [])
    root = bom["metadata"]["component"]["bom-ref"]
    needs[root] = sorted(first)
    return {
        **bom,
        "components": [part for part in bom["components"] if part["bom-ref"] in kept],
        "dependencies": [
            {"ref": ref, "dependsOn": needs[ref]} if needs.get(ref) else {"ref": ref}
            for ref in (root, *sorted(kept))
        ],
    }


def main() -> int:
    """Write the file and say what is in it."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "all.json"
        command = [str(Path(sys.executable).parent / "cyclonedx-py"), "environment", sys.executable]
        options = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
        subprocess.run([*command, *options, "--of", "JSON", "-o", str(whole)], check=True)
        bom = shipped_only(json.loads(whole.read_bytes()), shipped_requirements())
    target.parent.mkdir(exist_ok=True)
    target.write_text(f"{json.dumps(bom, indent=1)}\n", encoding="utf-8")
    print(f"{target}: CycloneDX {bom['specVersion']}, {len(bom['components'])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
