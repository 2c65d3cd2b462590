"""`python -m tools.sbom [FILE]`: write the SBOM (CycloneDX, JSON) of dsmops with its worker.

`cyclonedx-py` describes all that is installed beside this Python. What only development needs is
taken out: it is not part of what users install.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Container
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "dist" / "dsmops.cdx.json"


def shipped_packages(
    name: str = "dsmops", extras: frozenset[str] = frozenset({"worker"})
) -> set[str]:
    """Return the packages of an installation of `name`: it, and all that it needs here.

    Names are as indexes compare them.
    """
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(canonicalize_name(name), extras)]
    while todo:
        package, wanted = one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            lines = requires(package) or ()
        except PackageNotFoundError:
            continue  # of another platform, say
        found.add(package)
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": each}) for each in (*wanted, "")):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def shipped_only(bom: dict[str, Any], packages: Container[str]) -> dict[str, Any]:
    """Return the BOM with these packages and nothing else."""
    kept = {
        part["bom-ref"]: part
        for part in bom["components"]
        if canonicalize_name(part["name"]) in packages
    }
    root = bom["metadata"]["component"]["bom-ref"]
    needs = {
        each["ref"]: [ref for ref in each.get("dependsOn", ()) if ref in kept]
        for each in bom["dependencies"]
    }
    return {
        **bom,
        "components": list(kept.values()),
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
        bom = shipped_only(json.loads(whole.read_bytes()), shipped_packages())
    target.parent.mkdir(exist_ok=True)
    target.write_text(f"{json.dumps(bom, indent=1)}\n", encoding="utf-8")
    print(f"{target}: CycloneDX {bom['specVersion']}, {len(bom['components'])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
