"""The quality of synthesized sound: finite, in range, not silent, not clipped. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsmops.audio.pcm import Samples

CLIPPED_FROM = 0.985
"""Magnitude from which a sample counts as clipped. Servers limit samples to 0.99, which 16 bits may
round down."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Whether all samples are finite, and figures of the finite ones.

    `peak` and `rms` are magnitudes; then the share that is clipped.
    """

    is_finite: bool
    peak: float
    rms: float
    clipped_share: float


def quality(samples: Samples) -> Quality:
    """Return the quality of float32 samples, nominally in [-1, 1]; all is 0 without any."""
    finite = np.isfinite(samples)
    good = np.abs(samples[finite]).astype(np.float64)
    count = max(1, len(good))
    return Quality(
        is_finite=bool(finite.all()),
        peak=float(good.max(initial=0)),
        rms=float(np.sqrt((good**2).sum() / count)),
        clipped_share=float((good >= CLIPPED_FROM).sum() / count),
    )


def join(pieces: Sequence[Samples]) -> Samples:
    """Return all pieces in one, empty for none."""
    joined: Samples = np.concatenate([np.zeros(0, np.float32), *pieces])
    return joined
