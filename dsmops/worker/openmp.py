"""How long torch's OpenMP threads spin before they sleep, on a CPU.

Between two parallel regions of a step the threads wait for each other. libgomp spins for about
300,000 rounds first. On a machine with other work, the spinning threads take the cores from the
threads that they wait for: beside one busy process on two cores a step took 2.4 times as long as
alone. With 300 rounds it takes 1.1 times as long, and alone it is not slower (within 1 %). Not to
spin at all costs 10 % alone. `python -m tests.bench spinning` measures the pairs.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPIN_ROUNDS = 300
"""Rounds of spinning before a thread sleeps."""
_OWN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads of this process, and of those that it starts, spin shortly.

    libgomp reads the setting when torch loads it, so this comes before `import torch`. What the
    user has set stays.
    """
    if not any(name in environ for name in _OWN_SETTINGS):
        environ["GOMP_SPINCOUNT"] = str(SPIN_ROUNDS)
