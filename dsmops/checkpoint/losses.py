"""What a conversion did to the values, counted exactly: per tensor and in total.

Plain values, no numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCounts:
    """Element counts of one or more converted tensors.

    overflowed: finite in the source, not representable in the target (infinite there, or clamped).
    underflowed: non-zero in the source, zero in the target.
    subnormal: non-zero values that the target holds as subnormal numbers; `rounded` of them changed
        their value.
    rounded: non-zero finite results that differ from the source.
    infinite, nan: so in the source, and so in the target.
    largest_magnitude: of the finite source values; None when there is none.
    """

    elements: int = 0
    overflowed: int = 0
    underflowed: int = 0
    subnormal: int = 0
    rounded: int = 0
    infinite: int = 0
    nan: int = 0
    largest_magnitude: float | None = None

    @classmethod
    def total(cls, counts: Iterable[LossCounts]) -> LossCounts:
        """Return the sum of `counts`."""
        listed = tuple(counts)
        sums = {name: sum(getattr(one, name) for one in listed) for name in _SUMMED}
        largest = max(
            (one.largest_magnitude for one in listed if one.largest_magnitude is not None),
            default=None,
        )
        return LossCounts(**sums, largest_magnitude=largest)

    @property
    def lossless(self) -> bool:
        """Whether every element kept its value."""
        return not (self.overflowed or self.underflowed or self.rounded)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLoss(LossCounts):
    """The counts of one converted tensor."""

    name: str
    target_dtype: str


@dataclass(frozen=True, slots=True)
class LossReport:
    """Every converted tensor in file order, and their sum.

    Copied tensors lose nothing and are not listed.
    """

    totals: LossCounts
    tensors: tuple[TensorLoss, ...]

    @classmethod
    def of(cls, tensors: Iterable[TensorLoss]) -> LossReport:
        """Sum up `tensors`."""
        listed = tuple(tensors)
        return cls(LossCounts.total(listed), listed)

    @classmethod
    def from_json(cls, body: Any) -> LossReport:
        """Read back what `json.dumps` made of `dataclasses.asdict`.

        Raises KeyError, TypeError when it is something else.
        """
        return cls.of(TensorLoss(**tensor) for tensor in body["tensors"])

    @property
    def overflowing(self) -> tuple[TensorLoss, ...]:
        """The tensors with values beyond the target's range, worst first."""
        return tuple(
            sorted(
                (loss for loss in self.tensors if loss.overflowed),
                key=lambda loss: -loss.overflowed,
            )
        )


_SUMMED = tuple(field.name for field in fields(LossCounts) if field.name != "largest_magnitude")
