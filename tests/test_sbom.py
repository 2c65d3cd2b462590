"""The SBOM holds what users install, and nothing of development."""

from typing import Any

from tools.sbom import shipped_only, shipped_requirements


def _part(name: str) -> dict[str, str]:
    return {"bom-ref": f"{name}==1", "name": name}


def test_what_is_not_needed_is_taken_out() -> None:
    """The roots and what they need, however far; a circle does not matter."""
    bom: dict[str, Any] = {
        "metadata": {"component": {"bom-ref": "root", "name": "dsmops"}},
        "components": [_part(name) for name in ("rich", "Markdown_It", "mdurl", "pytest", "mypy")],
        "dependencies": [
            {"ref": "root", "dependsOn": ["rich==1", "pytest==1"]},
            {"ref": "rich==1", "dependsOn": ["Markdown_It==1"]},
            {"ref": "Markdown_It==1", "dependsOn": ["mdurl==1", "rich==1"]},
            {"ref": "pytest==1"},
        ],
    }
    left = shipped_only(bom, ["rich"])
    assert [part["name"] for part in left["components"]] == ["rich", "Markdown_It", "mdurl"]
    assert left["dependencies"][0] == {"ref": "root", "dependsOn": ["rich==1"]}


def test_the_roots_are_those_of_the_worker() -> None:
    """The core and the extra `worker`."""
    found = shipped_requirements()
    assert {"typer", "rich", "torch", "aiohttp"} <= found
    assert not {"pytest", "mypy", "moto", "matplotlib"} & found
