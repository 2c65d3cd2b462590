"""`python -m tests.bench [NAME ...]` runs all benchmarks, or those named; with `--compare` it shows
the last two runs of each instead.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import tests.bench
from tests.bench.compare import compare

NO_BENCHES = {"__main__", "compare", "harness", "moshi_peer", "pairs"}


def main(words: list[str]) -> int:
    """Run the benchmarks, or compare their last two runs, and return the worst exit code."""
    names = [word for word in words if word != "--compare"]
    known = sorted(
        module.name
        for module in pkgutil.iter_modules(tests.bench.__path__)
        if module.name not in NO_BENCHES
    )
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(
            f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    if "--compare" in words:
        print("\n\n".join(compare(name) for name in names or known))
        return 0
    return max(
        int(importlib.import_module(f"tests.bench.{name}").main()) for name in names or known
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
