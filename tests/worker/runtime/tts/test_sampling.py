"""Draws of tokens: repeatable from a seed, independent of everything else, and distributed as they
should be.
"""

from __future__ import annotations

import math

import pytest
import torch

from dsmops.worker.runtime.tts.sampling import draw, mix, noise, stream_key

DRAWS = 20_000


def _keys(*seeds: int) -> torch.Tensor:
    return torch.tensor([stream_key(seed) for seed in seeds])


def test_noise_is_gumbel_noise() -> None:
    """Over rows, steps, codebooks and tokens, and over each of them alone, it has the mean and
    spread of -gumbel values.
    """
    seen = torch.stack(
        [noise(_keys(0, 1, 2**40), torch.full((3,), step), 0, 8, 512) for step in range(12)]
    )
    assert seen.shape == (12, 3, 8, 512)
    for across in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):
        count = math.prod(seen.shape[dim] for dim in across)
        spread = math.pi / math.sqrt(6)
        torch.testing.assert_close(
            seen.mean(across),
            torch.full_like(seen.mean(across), -0.5772),
            atol=5 * spread / count**0.5,
            rtol=0,
        )
        assert (seen.std(across) - spread).abs().max() < 12 / count**0.5
    assert seen.isfinite().all()


def test_neighbours_are_not_alike() -> None:
    """Neighbouring seeds, steps, codebooks and tokens have uncorrelated noise."""
    seen = torch.stack(
        [noise(_keys(*range(8)), torch.full((8,), step), 0, 8, 256) for step in range(8)]
    )
    for dim in range(4):
        one, other = (
            seen.narrow(dim, 0, seen.shape[dim] - 1),
            seen.narrow(dim, 1, seen.shape[dim] - 1),
        )
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / one.numel() ** 0.5


def test_noise_of_a_row_is_its_own() -> None:
    """A row's noise is the same in any batch, in any place of it, and whichever codebooks are asked
    for together.
    """
    steps = torch.tensor([4, 9, 2])
    together = noise(_keys(5, 6, 7), steps, 1, 4, 100)
    for row, seed in enumerate((5, 6, 7)):
        for codebook in range(4):
            assert torch.equal(
                noise(_keys(seed), steps[row : row + 1], 1 + codebook, 1, 100)[0, 0],
                together[row, codebook],
            )
    assert torch.equal(noise(_keys(5), steps[:1], 1, 1, 50)[0, 0], together[0, 0, :50])


def test_every_bit_of_a_seed_counts() -> None:
    """Seeds that differ in one bit, or in sign, have keys of their own, all of 32 bits."""
    keys = {stream_key(seed) for seed in (0, -1, *(1 << bit for bit in range(96)))}
    assert len(keys) == 98
    assert all(0 <= key < 2**32 for key in keys)


def test_mix_is_a_bijection_of_small_numbers() -> None:
    """Different numbers have different hashes, within 32 bits."""
    hashes = mix(torch.arange(100_000))
    assert len(hashes.unique()) == 100_000
    assert hashes.min() >= 0
    assert hashes.max() < 2**32


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.5])
def test_draws_follow_the_distribution(temperature: float) -> None:
    """Tokens come as often as the softmax of their logits says, and none from beyond the most
    probable ones.
    """
    logits = torch.tensor([1.0, 0.2, -0.5, 0.9, -3.0, 0.4])
    rolls = noise(_keys(*range(DRAWS)), torch.zeros(DRAWS, dtype=torch.int64), 0, 1, 6)[:, 0]
    drawn = draw(logits.expand(DRAWS, -1), rolls, torch.full((DRAWS,), temperature), 4)
    allowed = torch.tensor([0, 1, 3, 5])
    expected = torch.zeros(6)
    expected[allowed] = (logits[allowed] / temperature).softmax(-1)
    torch.testing.assert_close(drawn.bincount(minlength=6) / DRAWS, expected, atol=0.02, rtol=0)


def test_temperature_0_and_ties() -> None:
    """At temperature 0 the best token is taken.

    More tokens allowed than there are is all; ties with the last allowed one count.
    """
    logits = torch.tensor([[0.0, 2.0, 1.0, 1.0], [3.0, 2.0, 1.0, 1.0]])
    rolls = torch.tensor([[0.0, 0.0, 0.0, -9.0], [0.0, 0.0, 0.0, -9.0]])
    assert draw(logits, rolls, torch.zeros(2), 4000).tolist() == [1, 0]
    assert draw(logits, rolls, torch.ones(2), 2).tolist() == [3, 0]
    assert draw(logits, rolls, torch.ones(2), 3).tolist() == [3, 3]
