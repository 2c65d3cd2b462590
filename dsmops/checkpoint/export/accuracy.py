"""What an export did to the values: exact counts and errors, per tensor and in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGNITUDES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Bounds of the classes of absolute error: exact, up to 1e-6, up to 1e-5, ..., above 1e-1."""


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """How far the values of a target are from those of its source.

    elements: finite values that were compared; `not_finite` are those that were not.
    max_error, mean_error: of the absolute differences. relative_rms_error: root mean square of the
        differences over that of the values; 0 where all values are 0.
    shares: share of all values by the size of their error: "0" exact, "<=1e-06" above 0 and up to
        1e-6, and so on.
    """

    elements: int
    not_finite: int
    max_error: float
    mean_error: float
    relative_rms_error: float
    shares: Mapping[str, float] = field(hash=False)


@dataclass(slots=True)
class Errors:
    """Absolute differences between source values and what readers of the target compute.

    elements: values compared; not finite ones count in `not_finite` instead.
    largest: the largest error, and sum, sum_of_squares over all. source_squares: sum of value².
    classes: how many errors are in each class of `MAGNITUDES`, the last one above its last bound.
    overflowed: finite values that the target's dtype cannot hold.
    """

    elements: int = 0
    not_finite: int = 0
    overflowed: int = 0
    largest: float = 0.0
    sum: float = 0.0
    sum_of_squares: float = 0.0
    source_squares: float = 0.0
    classes: list[int] = field(default_factory=lambda: [0] * (len(MAGNITUDES) + 1))

    def summary(self) -> ErrorSummary:
        """Return what is reported of these counts."""
        count, labels = max(self.elements, 1), ("0", *(f"<={one:g}" for one in MAGNITUDES[1:]))
        classes = zip((*labels, f">{MAGNITUDES[-1]:g}"), self.classes, strict=True)
        relative = self.sum_of_squares / self.source_squares if self.source_squares else 0.0
        return ErrorSummary(
            elements=self.elements,
            not_finite=self.not_finite,
            max_error=self.largest,
            mean_error=self.sum / count,
            relative_rms_error=relative**0.5,
            shares={label: number / count for label, number in classes},
        )

    def note(self, source: NDArray[np.float32], target: NDArray[np.float32]) -> None:
        """Count a block of values, at most 2**20 of them."""
        import numpy as np

        source, target = source.reshape(-1), target.reshape(-1)
        with np.errstate(invalid="ignore"):
            error = np.subtract(target, source)
        np.abs(error, out=error)
        largest = float(error.max(initial=0))
        if not np.isfinite(largest):
            source, target = self._finite(source, target)
            error = np.abs(target - source)
            largest = float(error.max(initial=0))
        self.elements += error.size
        self.largest = max(self.largest, largest)
        # As dot products: BLAS reads the block in half the time of `sum`.
        self.sum += float(np.dot(error, _ones(error.size)))
        self.sum_of_squares += float(np.dot(error, error))
        self.source_squares += float(np.dot(source, source))
        below, is_below = 0, np.empty(error.size, np.bool_)
        for number, bound in enumerate(MAGNITUDES):
            if largest <= bound:
                break
            np.less_equal(error, np.float32(bound), out=is_below)
            count = int(np.count_nonzero(is_below))
            self.classes[number] += count - below
            below = count
        else:
            number = len(MAGNITUDES)
        self.classes[number] += error.size - below

    def _finite(
        self, source: NDArray[np.float32], target: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        import numpy as np

        usable = np.isfinite(source)
        self.not_finite += int(usable.size - np.count_nonzero(usable))
        held = np.isfinite(target)
        self.overflowed += int(np.count_nonzero(usable & ~held))
        usable &= held
        return source[usable], target[usable]

    def add(self, other: Errors) -> None:
        """Add the counts of `other`."""
        self.elements += other.elements
        self.not_finite += other.not_finite
        self.overflowed += other.overflowed
        self.largest = max(self.largest, other.largest)
        self.sum += other.sum
        self.sum_of_squares += other.sum_of_squares
        self.source_squares += other.source_squares
        self.classes = [a + b for a, b in zip(self.classes, other.classes, strict=True)]


def _ones(count: int) -> NDArray[np.float32]:
    # Few sizes are kept: without its NaNs a block has any number of values.
    return _kept_ones(1 << count.bit_length())[:count]


@cache
def _kept_ones(count: int) -> NDArray[np.float32]:
    import numpy as np

    return np.ones(count, np.float32)


@dataclass(frozen=True, slots=True)
class TensorErrors:
    """The errors of one tensor of the target. `encoding` names how it is stored."""

    name: str
    encoding: str
    errors: Errors

    @classmethod
    def from_json(cls, body: Any) -> TensorErrors:
        """Read back what `dataclasses.asdict` gave."""
        return cls(body["name"], body["encoding"], Errors(**body["errors"]))


def total(tensors: Iterable[TensorErrors]) -> Errors:
    """Return the errors of all `tensors` together."""
    found = Errors()
    for tensor in tensors:
        found.add(tensor.errors)
    return found
