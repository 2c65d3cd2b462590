"""What import contracts cannot say: one path to each name, and a drawing that is true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "dsmops").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
ARCHITECTURE = (ROOT / "runbooks" / "architecture.md").read_text(encoding="utf-8")


def public_names() -> dict[str, set[str]]:
    """Return `__all__` of each package that has one."""
    found = {}
    for file in (ROOT / "dsmops").rglob("__init__.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                package = ".".join(file.parent.relative_to(ROOT).parts)
                found[package] = set(ast.literal_eval(node.value))
    return found


PUBLIC = public_names()


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_each_name_has_one_path(file: Path) -> None:
    """A name in the `__all__` of a package is imported from the package, never from its modules."""
    here = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    wrong = [
        f"{node.module}.{name.name} is public in {package}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        for package, names in PUBLIC.items()
        if node.module.startswith(f"{package}.") and not f"{here}.".startswith(f"{package}.")
        for name in node.names
        if name.name in names
    ]
    assert wrong == []


def test_the_packages_with_public_names_are_known() -> None:
    """The check above sees them."""
    assert {"dsmops.audio", "dsmops.checkpoint", "dsmops.hub", "dsmops.protocol"} <= PUBLIC.keys()


def test_every_module_that_the_architecture_names_exists() -> None:
    """Also those of the five ways: `checkpoint/header`, `worker/runtime/stt/engine`."""
    section = ARCHITECTURE.partition("## Five ways through the code")[2].partition("\n## ")[0]
    named = re.findall(r"`([a-z_0-9]+(?:/[a-z_0-9]+)+)`", section)
    assert len(named) > 40
    missing = [
        name
        for name in named
        if not ((ROOT / "dsmops" / f"{name}.py").is_file() or (ROOT / "dsmops" / name).is_dir())
    ]
    assert missing == []


def test_every_package_is_in_the_table() -> None:
    """A newcomer finds where a file belongs."""
    packages = {file.parent.name for file in (ROOT / "dsmops").glob("*/__init__.py")}
    assert [name for name in sorted(packages) if f"`{name}/`" not in ARCHITECTURE] == []
