"""The SBOM holds what users install, and nothing of development."""

from typing import Any

from tools.sbom import shipped_only, shipped_packages


def _part(name: str) -> dict[str, str]:
    return {"bom-ref": f"{name}==1", "name": name}


def test_what_is_not_needed_is_taken_out() -> None:
    """Of the parts and of what others depend on."""
    bom: dict[str, Any] = {
        "metadata": {"component": {"bom-ref": "root", "name": "dsmops"}},
        "components": [_part(name) for name in ("rich", "Markdown_It", "pytest")],
        "dependencies": [
            {"ref": "root", "dependsOn": ["rich==1", "pytest==1"]},
            {"ref": "rich==1", "dependsOn": ["Markdown_It==1", "pytest==1"]},
            {"ref": "pytest==1"},
        ],
    }
    left = shipped_only(bom, {"rich", "markdown-it"})
    assert [part["name"] for part in left["components"]] == ["rich", "Markdown_It"]
    assert left["dependencies"] == [
        {"ref": "root", "dependsOn": ["rich==1"]},
        {"ref": "Markdown_It==1"},
        {"ref": "rich==1", "dependsOn": ["Markdown_It==1"]},
    ]


def test_the_packages_are_those_of_the_worker() -> None:
    """What the core and the extra `worker` need, and what that needs, without any other extra."""
    found = shipped_packages()
    assert {"dsmops", "typer", "rich", "markdown-it-py", "torch", "aiohttp", "yarl"} <= found
    assert not {"pytest", "mypy", "moto", "matplotlib", "hypothesis", "ruff"} & found
    assert shipped_packages("no-such-package") == set()
