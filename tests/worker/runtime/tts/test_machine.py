"""The state machine between text and model, against a second implementation, recorded numbers and
upstream's package.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.worker.runtime.tts.machine import TtsEntry, TtsPacing, TtsTextMachine
from tests.worker.runtime.tts.test_golden import PREDICTIONS, TEXT

ROWS = 50
PACINGS = st.builds(TtsPacing, max_padding=st.integers(0, 9), initial_padding=st.integers(0, 4))
WORDS = st.builds(
    lambda tokens, padding: TtsEntry(tuple(tokens), "word", padding),
    st.lists(st.integers(4, ROWS - 2), min_size=1, max_size=5),
    st.integers(0, 6),
)
PAUSES = st.builds(lambda padding: TtsEntry((), "", padding), st.integers(0, 12))
ENTRIES = st.lists(st.one_of(WORDS, WORDS, PAUSES), max_size=12)
PREDICTED = st.lists(st.sampled_from([0, 0, 3, 7]), max_size=120)


@given(st.integers(0, 3), PACINGS, st.lists(ENTRIES, min_size=1, max_size=3), PREDICTED)
def test_the_options_are_what_is_fed(
    ahead: int, pacing: TtsPacing, pieces: list[list[TtsEntry]], predicted: list[int]
) -> None:
    """`options` says before each step what the step feeds for either prediction, and changes
    nothing.
    """
    machine = TtsTextMachine(ahead=ahead, text_rows=ROWS, pacing=pacing)
    rules = Rules(ahead, pacing)
    for step, prediction in enumerate(predicted):
        if step % 20 == 0 and pieces:
            entries = pieces.pop(0)
            machine.extend(entries)
            rules.left = rules.left + entries
        options = machine.options()
        token, begun = machine.step(step, prediction)
        assert token == options[prediction == 0]
        assert (token, begun) == rules(step, prediction)


class Rules:
    """The rules as the reference states them, one after the other, with nothing shared.

    `left` is a plain list.
    """

    def __init__(self, ahead: int, pacing: TtsPacing) -> None:
        self.ahead, self.most = ahead, pacing.max_padding
        self.left: list[TtsEntry] = []
        self.q: list[int] = []
        self.l: list[int] = []
        self.remaining = self.forced = pacing.initial_padding
        self.end: int | None = None

    def __call__(self, s: int, p: int) -> tuple[int, TtsEntry | None]:
        begun = None
        # 1
        want = "word" if p == 0 else "pad"
        if self.q or self.forced > 0:
            want = "pad"
        elif self.remaining <= 0:
            want = "word"
        # 2
        if want == "word" and self.left:
            begun, self.left = self.left[0], self.left[1:]
            if begun.tokens:
                self.q = self.q + list(begun.tokens)
                following = [entry.tokens for entry in self.left if entry.tokens]
                if 0 < self.ahead <= len(following):
                    self.l = self.l + list(following[self.ahead - 1])
                self.remaining = self.most
            else:
                want = "pad"
            self.forced = begun.padding
        # 3
        elif want == "word":
            if self.end is not None or self.ahead == 0:
                want = "pad"
            if self.end is None:
                self.end = s
        # 4
        if want == "pad":
            self.remaining = max(self.remaining - 1, min(self.remaining, 0))
            self.forced = max(self.forced - 1, 0)
            main, self.q = (self.q[0], self.q[1:]) if self.q else (3, [])
        else:
            main = 0
        # 5
        if self.ahead == 0:
            return main, begun
        if main == 0 and want == "word":
            second = 0
            main, self.q = (self.q[0], self.q[1:]) if self.q else (3, [])
        elif self.l:
            second, self.l = self.l[0], self.l[1:]
        else:
            second = -1
        return (second + 1) * ROWS + main, begun


def run(machine: TtsTextMachine, predictions: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the tokens that were fed and the steps at which entries began."""
    fed, begun = [], []
    for step, prediction in enumerate(predictions):
        token, entry = machine.step(step, prediction)
        fed.append(token)
        if entry is not None:
            begun.append(step)
    return fed, begun


def test_the_example_of_the_reference() -> None:
    """Main and second stream, word by word."""
    machine = TtsTextMachine(ahead=2, text_rows=8001, pacing=TtsPacing())
    machine.extend(
        [
            TtsEntry((1, 100, 101), "a", 3),
            TtsEntry((200,), "b", 1),
            TtsEntry((300, 301), "c", 2),
            TtsEntry((400,), "d", 1),
        ]
    )
    fed, _ = run(machine, [3, 0, 0, 3, 3, 0, 0, 3, 0])
    pairs = [(token % 8001, token // 8001 - 1) for token in fed]
    assert pairs == [
        (3, -1),
        (3, -1),
        (1, 0),
        (100, 300),
        (101, 301),
        (3, -1),
        (200, 0),
        (3, 400),
        (300, 0),
    ]


def test_recorded_text_of_a_whole_run() -> None:
    """The tokens, the steps at which entries began, and the end, as upstream's package gave
    them.
    """
    machine = TtsTextMachine(ahead=2, text_rows=49, pacing=TtsPacing(max_padding=6))
    machine.extend(
        [
            TtsEntry((1, 10, 11), "", 3),
            TtsEntry((20,), "", 1),
            TtsEntry((30, 31), "", 2),
            TtsEntry((), "", 3),
            TtsEntry((40,), "", 1),
        ]
    )
    fed, begun = run(machine, [int(token) for token in PREDICTIONS.split()])
    recorded = [int(token) for token in TEXT.split()]
    assert fed[: len(recorded)] == recorded
    assert begun == [2, 6, 13, 20, 23]
    assert machine.end_step == 30


@given(
    first=ENTRIES,
    later=st.lists(st.tuples(st.integers(0, 120), ENTRIES), max_size=4),
    predictions=PREDICTED,
    ahead=st.integers(0, 3),
    pacing=PACINGS,
)
def test_every_step_is_that_of_the_rules(
    first: list[TtsEntry],
    later: list[tuple[int, list[TtsEntry]]],
    predictions: list[int],
    ahead: int,
    pacing: TtsPacing,
) -> None:
    """Whatever is said, predicted and added while the machine runs: tokens, beginnings and the
    end.
    """
    machine, rules = (
        TtsTextMachine(ahead=ahead, text_rows=ROWS, pacing=pacing),
        Rules(ahead, pacing),
    )
    machine.extend(first)
    rules.left += first
    for step, prediction in enumerate(predictions):
        for entries in (entries for at, entries in later if at == step):
            machine.extend(entries)
            rules.left += entries
        assert machine.step(step, prediction) == rules(step, prediction)
        assert len(machine) == len(rules.left)
        assert machine.end_step == rules.end


@pytest.mark.slow
@given(
    entries=ENTRIES,
    predictions=st.lists(st.sampled_from([0, 3]), min_size=400, max_size=400),
    ahead=st.integers(1, 3),
    cut=st.data(),
)
def test_a_stream_that_waits_for_its_text_feeds_what_the_whole_text_feeds(
    entries: list[TtsEntry], predictions: list[int], ahead: int, cut: st.DataObject
) -> None:
    """Stepping only while enough is known, however late the text comes, changes nothing."""
    whole, late = (
        TtsTextMachine(ahead=ahead, text_rows=ROWS, pacing=TtsPacing()) for _ in range(2)
    )
    whole.extend(entries)
    expected, _ = run(whole, predictions)
    waiting = list(entries)
    for step, prediction in enumerate(predictions):
        while waiting and not late.sees_enough:
            count = cut.draw(st.integers(1, 3))
            late.extend(waiting[:count])
            del waiting[:count]
        token, _ = late.step(step, prediction)
        assert token == expected[step]
    assert late.end_step == whole.end_step is not None


@pytest.mark.parametrize(
    ("entries", "ahead", "enough"),
    [
        ([], 2, False),
        ([TtsEntry((), "", 3)], 2, True),
        ([TtsEntry((9,), "a"), TtsEntry((9,), "b")], 2, False),
        (
            [TtsEntry((9,), "a"), TtsEntry((), "", 3), TtsEntry((9,), "b"), TtsEntry((9,), "c")],
            2,
            True,
        ),
        ([TtsEntry((9,), "a")], 0, True),
        ([], 0, False),
    ],
)
def test_what_a_step_has_to_know(entries: list[TtsEntry], ahead: int, enough: bool) -> None:
    """A pause comes next, or a word and as many more as the second stream looks ahead.

    Pauses do not count as words.
    """
    machine = TtsTextMachine(ahead=ahead, text_rows=ROWS, pacing=TtsPacing(initial_padding=0))
    machine.extend(entries)
    assert machine.sees_enough is enough


def test_steps_in_which_nothing_can_begin_need_no_text() -> None:
    """The padding before the first word, and a word's own tokens and padding."""
    machine = TtsTextMachine(ahead=1, text_rows=ROWS, pacing=TtsPacing(initial_padding=2))
    enough = []
    for step in range(2):
        enough.append(machine.sees_enough)
        machine.step(step, 0)
    assert enough == [True, True]
    machine.extend([TtsEntry((9, 10), "a", 3), TtsEntry((11,), "b", 1)])
    enough = []
    for step in range(2, 7):
        enough.append(machine.sees_enough)
        machine.step(step, 3 if step == 6 else 0)
    assert enough == [True, True, True, True, False]


@pytest.mark.slow
@given(entries=ENTRIES, ahead=st.integers(1, 3), pacing=PACINGS)
def test_a_model_that_never_asks_is_given_its_words_all_the_same(
    entries: list[TtsEntry], ahead: int, pacing: TtsPacing
) -> None:
    """So every text ends, after a number of steps that its entries bound."""
    machine = TtsTextMachine(ahead=ahead, text_rows=ROWS, pacing=pacing)
    machine.extend(entries)
    most = (
        pacing.initial_padding
        + sum(len(entry.tokens) + entry.padding + pacing.max_padding + 1 for entry in entries)
        + 1
    )
    run(machine, [7] * most)
    assert machine.end_step is not None
    assert len(machine) == 0


@pytest.fixture(scope="module")
def upstream() -> Any:
    """The text-to-speech module of upstream's package."""
    return pytest.importorskip("moshi.models.tts", reason="the moshi package is not installed")


@pytest.mark.parity
@given(entries=ENTRIES, predictions=PREDICTED, ahead=st.integers(0, 3), pacing=PACINGS)
def test_every_step_is_that_of_upstream(
    upstream: Any, entries: list[TtsEntry], predictions: list[int], ahead: int, pacing: TtsPacing
) -> None:
    """Tokens, beginnings and the end."""
    theirs = upstream.StateMachine(
        upstream.TokenIds(ROWS),
        second_stream_ahead=ahead,
        max_padding=pacing.max_padding,
        initial_padding=pacing.initial_padding,
    )
    state = theirs.new_state(
        [upstream.Entry(list(entry.tokens), entry.text, entry.padding) for entry in entries]
    )
    ours = TtsTextMachine(ahead=ahead, text_rows=ROWS, pacing=pacing)
    ours.extend(entries)
    expected, begun = [], []
    for step, prediction in enumerate(predictions):
        token, consumed = theirs.process(step, state, prediction)
        expected.append(token)
        begun += [step] * consumed
    assert run(ours, predictions) == (expected, begun)
    assert ours.end_step == state.end_step
    assert begun == state.consumption_times
