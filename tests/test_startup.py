"""Starting up stays cheap: the heavy libraries load only inside the commands that need them."""

import subprocess
import sys


def test_the_application_imports_without_heavy_libraries() -> None:
    """Importing the whole command line loads no torch, numpy, rich, hub client, TOML or NVML
    library.
    """
    heavy = (
        "torch",
        "boto3",
        "numpy",
        "pynvml",
        "rich",
        "huggingface_hub",
        "tomlkit",
        "pydantic",
        "asyncio",
    )
    code = f"import sys, dsmops.cli.app; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
