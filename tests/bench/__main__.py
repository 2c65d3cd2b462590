"""`python -m tests.bench [NAME ...]` runs all benchmarks, or those named, one after another."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import tests.bench


def main(names: list[str]) -> int:
    """Run the benchmarks and return the worst exit code."""
    known = sorted(module.name for module in pkgutil.iter_modules(tests.bench.__path__) if module.name not in {"__main__", "harness"})
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    return max(int(importlib.import_module(f"tests.bench.{name}").main()) for name in names or known)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
