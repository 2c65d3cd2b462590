"""How long torch's OpenMP threads spin before they sleep, on a CPU.

Between two parallel regions of a step the threads wait for each other. libgomp spins for about
300,000 rounds first. On a machine with other work, the spinning threads take the cores from the
threads that they wait for: a step of 61 ms took 276 ms beside one busy process on two cores. With
1,000 rounds it took 71 ms alone and 107 ms beside the busy process, where moshi-server took 138 and
122. `python -m tests.bench spinning` measures the pair.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPIN_ROUNDS = 1000
"""Rounds of spinning before a thread sleeps."""
_OWN_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads of this process, and of those that it starts, spin shortly.

    libgomp reads the setting when torch loads it, so this comes before `import torch`. What the
    user has set stays.
    """
    if not any(name in environ for name in _OWN_SETTINGS):
        environ["GOMP_SPINCOUNT"] = str(SPIN_ROUNDS)
