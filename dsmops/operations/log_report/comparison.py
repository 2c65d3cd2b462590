"""Two reports side by side: what differs by more than noise, and by which test.

Steps that follow each other are alike, so they are not independent: their medians by
stretches of time are compared, by the rank test of Mann and Whitney. Shares, such as refused of
asked, are compared by Fisher's exact test. A difference counts as real when chance alone makes one
as large in fewer than 1 of 100 cases, and when it is larger than what the figures resolve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist, median

from dsmops.operations.log_report.result import (
    Comparison,
    Difference,
    LogReport,
    Measure,
    Moment,
    Times,
)
from dsmops.units import counted

MANN_WHITNEY = "Mann-Whitney U"
FISHER = "Fisher's exact test"
_MOST_P = 0.01
_LEAST_CHANGE = 0.03
"""Percentiles are within 1 % on both sides."""
_LEAST_SAMPLES, _LEAST_TOGETHER = 3, 12
"""With fewer, the approximation of the rank test is not on the safe side."""
_MOST_TERMS = 200_000


def with_comparison(new: LogReport, old: LogReport) -> LogReport:
    """Return a report with an older one, or that of another server, beside it."""
    differences = (*_steps(new, old), *_shares(new, old), *_counts(new, old))
    return replace(new, comparison=Comparison(old, differences))


def _steps(new: LogReport, old: LogReport) -> list[Difference]:
    measures: tuple[tuple[Measure, str, Callable[[Moment], float]], ...] = (
        (Measure.STEP_MEDIAN, "step time, median", lambda moment: moment.p50_ms),
        (Measure.STEP_P99, "step time, p99", lambda moment: moment.p99_ms),
    )
    found = []
    sides = [[each for each in report.over_time if each.steps] for report in (old, new)]
    for key, name, value in measures:
        before, after = ([value(each) for each in side] for side in sides)
        found.append(_ranked(key, name, before, after, "ms"))
    at_same = _same_streams(*sides)
    if at_same is not None:
        streams, before, after = at_same
        name = f"step time, median, at {counted(streams, 'stream')}"
        key = Measure.STEP_MEDIAN_AT_SAME_STREAMS
        found.append(_ranked(key, name, before, after, "ms"))
    return found


def _same_streams(
    old: Sequence[Moment], new: Sequence[Moment]
) -> tuple[int, list[float], list[float]] | None:
    """Return the medians of stretches with one number of streams, that which both have most of.

    None where the reports have no number in common, or only one.
    """
    shared = {each.most_streams for each in old} & {each.most_streams for each in new}
    if not shared or {each.most_streams for each in (*old, *new)} == shared == {max(shared)}:
        return None

    def at(side: Sequence[Moment], streams: int) -> list[float]:
        return [each.p50_ms for each in side if each.most_streams == streams]

    best = max(shared, key=lambda streams: min(len(at(old, streams)), len(at(new, streams))))
    return best, at(old, best), at(new, best)


def _ranked(
    key: Measure, name: str, old: Sequence[float], new: Sequence[float], unit: str
) -> Difference:
    before = median(old) if old else None
    after = median(new) if new else None
    is_too_little = (
        min(len(old), len(new)) < _LEAST_SAMPLES or len(old) + len(new) < _LEAST_TOGETHER
    )
    if before is None or after is None or is_too_little:
        return Difference(key, name, before, after, unit, None, None, is_real=False)
    p = mann_whitney_p(old, new)
    change = abs(after - before) / max(before, after, 1e-9)
    test = f"{MANN_WHITNEY} over {len(old)} and {len(new)} stretches"
    is_real = p < _MOST_P and change >= _LEAST_CHANGE
    return Difference(key, name, before, after, unit, test, p, is_real=is_real)


def _shares(new: LogReport, old: LogReport) -> list[Difference]:
    parts: tuple[tuple[Measure, str, Callable[[LogReport], int]], ...] = (
        (Measure.REFUSED, "streams refused as full", lambda r: r.streams.refused + r.tts.refused),
        (
            Measure.DROPPED_SILENT,
            "clients dropped for silence",
            lambda r: r.streams.dropped_silent + r.tts.dropped_silent,
        ),
        (
            Measure.WRONG_KEYS,
            "requests with a wrong key",
            lambda r: r.streams.wrong_keys + r.tts.wrong_keys,
        ),
    )
    return [
        _share(key, name, (part(old), _asked(old)), (part(new), _asked(new)))
        for key, name, part in parts
    ]


def _asked(report: LogReport) -> int:
    streams, tts = report.streams, report.tts
    return streams.asked + streams.posts + tts.asked + tts.posts


def _share(key: Measure, name: str, old: tuple[int, int], new: tuple[int, int]) -> Difference:
    before, after = (100 * part / whole if whole else None for part, whole in (old, new))
    unit = "% of what was asked for"
    if before is None or after is None:
        return Difference(key, name, before, after, unit, None, None, is_real=False)
    p = fisher_p(old, new)
    test = f"{FISHER}: {old[0]} of {old[1]}, {new[0]} of {new[1]}"
    return Difference(key, name, before, after, unit, test, p, is_real=p < _MOST_P)


def _counts(new: LogReport, old: LogReport) -> list[Difference]:
    """Return what is shown side by side, without a test: single events, and what was asked for."""
    rows: tuple[tuple[Measure, str, str, Callable[[LogReport], float | None]], ...] = (
        (
            Measure.STEPS_OVER_80_MS,
            "steps over 80 ms",
            "%",
            lambda r: 100 * r.steps.over_share if r.steps else None,
        ),
        (
            Measure.MOST_BEHIND,
            "most behind",
            "s of audio",
            lambda r: r.behind[0].audio_s if r.behind else 0.0,
        ),
        (Measure.MOST_WITH_DATA, "most streams with data", "", lambda r: r.streams.most_with_data),
        (
            Measure.MOST_CONNECTED,
            "most streams connected",
            "",
            lambda r: max(r.streams.most_open, r.tts.most_open),
        ),
        (Measure.STARTS, "starts", "", lambda r: len([run for run in r.runs if run.started])),
        (Measure.DEATHS, "deaths", "", lambda r: len([run for run in r.runs if run.died_of])),
        (
            Measure.TEXT_MEDIAN,
            "text, slot to end, median",
            "ms",
            lambda r: _median_ms(r.tts.texts_ms),
        ),
        (
            Measure.FIRST_SOUND_MEDIAN,
            "first sound, median",
            "ms",
            lambda r: _median_ms(r.tts.first_audio_ms),
        ),
    )
    found = []
    for key, name, unit, value in rows:
        before, after = value(old), value(new)
        if before is not None or after is not None:
            found.append(Difference(key, name, before, after, unit, None, None, is_real=False))
    return found


def _median_ms(times: Times | None) -> float | None:
    return None if times is None else times.p50_ms


def mann_whitney_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how often chance alone makes two groups differ so much in rank (two-sided).

    By the normal approximation with ties and correction for continuity. Where the groups are small
    and do not overlap it says more than the exact distribution, so it gives no false alarms.
    """
    count, size = len(first), len(first) + len(second)
    ordered = sorted([*((value, 0) for value in first), *((value, 1) for value in second)])
    rank_sum, ties, place = 0.0, 0, 0
    while place < size:
        end = place
        while end < size and ordered[end][0] == ordered[place][0]:
            end += 1
        same = end - place
        ties += same**3 - same
        # All of one value share the mean of their ranks, which count from 1.
        rank_sum += (place + 1 + end) / 2 * sum(1 - group for _, group in ordered[place:end])
        place = end
    u = rank_sum - count * (count + 1) / 2
    others = size - count
    variance = count * others / 12 * (size + 1 - ties / (size * (size - 1)))
    if variance <= 0:
        return 1.0
    distance = max(0.0, abs(u - count * others / 2) - 0.5) / math.sqrt(variance)
    return 2 * (1 - NormalDist().cdf(distance))


def fisher_p(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return how often chance alone makes two shares differ so much (two-sided).

    A share is a part and its whole. By the exact test, or where that has more than 200,000 terms,
    by the normal approximation.
    """
    (part_a, whole_a), (part_b, whole_b) = first, second
    parts, size = part_a + part_b, whole_a + whole_b
    if min(whole_a, whole_b) <= 0 or parts in (0, size):
        return 1.0
    least, most = max(0, parts - whole_b), min(parts, whole_a)
    if most - least > _MOST_TERMS:
        share = parts / size
        spread = math.sqrt(share * (1 - share) * (1 / whole_a + 1 / whole_b))
        return 2 * (1 - NormalDist().cdf(abs(part_a / whole_a - part_b / whole_b) / spread))

    def log_choose(whole: int, part: int) -> float:
        return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)

    everything = log_choose(size, parts)
    chances = [
        log_choose(whole_a, part) + log_choose(whole_b, parts - part) - everything
        for part in range(least, most + 1)
    ]
    seen = chances[part_a - least]
    return min(1.0, sum(math.exp(chance) for chance in chances if chance <= seen + 1e-7))
