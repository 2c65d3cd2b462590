"""The state machine that turns the TTS model's prediction into the next text token.

The model is asked only when the next word may begin. The machine decides which word that is, how
its tokens are fed, and which later word is shown ahead in the second text stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from dsmops.worker.models.conventions import END_OF_PADDING, PADDING

NEW_WORD = END_OF_PADDING
NOTHING = -1
"""What the second stream holds where it shows no word."""


@dataclass(frozen=True, slots=True)
class TtsEntry:
    """A word as its text tokens, or, without tokens, a pause.

    `padding` steps without text are forced behind it, its own tokens' steps included. `text` is
    what is reported when it is said, if any.
    """

    tokens: tuple[int, ...]
    text: str
    padding: int = 0


@dataclass(frozen=True, slots=True)
class TtsPacing:
    """How words follow each other, in steps. The defaults are those of moshi-server.

    `max_padding`: after so many steps without a word the next one begins, whatever the model says.
    `padding_between`: forced between the tokens of two words. `initial_padding`, `final_padding`:
    before the first word and after the last.
    """

    max_padding: int = 8
    initial_padding: int = 2
    final_padding: int = 4
    padding_between: int = 1


class TtsTextMachine:
    """The text of one stream on its way into the model. Entries may be added at any time.

    `ahead`: the second stream shows the word that comes so many words later; 0 for a model without
    a second stream. `text_rows`: rows of the model's text table, by which the two streams' tokens
    are multiplexed.

    Source: `StateMachine` of moshi 0.2.13, `models/tts.py`; parity is tested.
    """

    def __init__(self, *, ahead: int, text_rows: int, pacing: TtsPacing) -> None:
        self.end_step: int | None = None
        """The step at which a word was wanted and none was left."""
        self._ahead, self._text_rows = ahead, text_rows
        self._max_padding = pacing.max_padding
        self._entries: deque[TtsEntry] = deque()
        self._main: deque[int] = deque()
        self._second: deque[int] = deque()
        self._may_pad = self._must_pad = pacing.initial_padding

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._entries)

    def extend(self, entries: Iterable[TtsEntry]) -> None:
        """Add entries to the end of the text."""
        self._entries.extend(entries)

    @property
    def sees_enough(self) -> bool:
        """Whether the text so far decides the next step.

        It does when no entry can begin in this step, when a pause is next, or when the next word
        and as many behind it as the second stream needs are known. moshi-server asks for these
        words in every step, which gives the same tokens later.
        """
        if self._main or self._must_pad > 0:
            return True
        if not self._entries or not self._entries[0].tokens:
            return bool(self._entries)
        return self._word(self._ahead) is not None

    @property
    def asks(self) -> bool:
        """Whether the next step depends on the model's prediction.

        Otherwise a word is forced or impossible.
        """
        return not self._main and self._must_pad <= 0 and self._may_pad > 0

    def options(self) -> tuple[int, int]:
        """Return what `step` feeds next where the model predicts padding, and where it asks for a
        word.
        """
        padding, word = self._is_word(PADDING), self._is_word(NEW_WORD)
        token = self._token(wants_word=padding)
        return token, token if word == padding else self._token(wants_word=word)

    def step(self, step: int, prediction: int) -> tuple[int, TtsEntry | None]:
        """Return the token to feed in `step`, multiplexed, and the entry that begins with it.

        The entry is None where none begins.

        `prediction` is the model's text token: 0 asks for the next word, any other for padding.
        """
        wants_word = self._is_word(prediction)
        token = self._token(wants_word=wants_word)
        begun = None
        if wants_word:
            if self._entries:
                begun = self._begin()
                wants_word = bool(begun.tokens)
            else:
                wants_word = self._ahead > 0 and self.end_step is None
                self.end_step = step if self.end_step is None else self.end_step
        if wants_word and not self._ahead:
            return token, begun
        if not wants_word:
            self._may_pad -= self._may_pad > 0
            self._must_pad -= self._must_pad > 0
            if self._second:
                self._second.popleft()
        if self._main:
            self._main.popleft()
        return token, begun

    def _is_word(self, prediction: int) -> bool:
        """Return whether the next word is wanted in the next step."""
        if self._main or self._must_pad > 0:
            return False
        return self._may_pad <= 0 or prediction == NEW_WORD

    def _token(self, *, wants_word: bool) -> int:
        """Return the token of the next step, multiplexed."""
        main = self._main[0] if self._main else PADDING
        if wants_word:
            tokens = self._entries[0].tokens if self._entries else ()
            is_end = not self._entries and self._ahead > 0 and self.end_step is None
            wants_word = bool(tokens) or is_end
            main = tokens[0] if tokens else PADDING
        if not self._ahead:
            return NEW_WORD if wants_word else main
        # That a word begins stands in the second stream, so that its first token need not wait.
        second = NEW_WORD if wants_word else self._second[0] if self._second else NOTHING
        return (second + 1) * self._text_rows + main

    def _begin(self) -> TtsEntry:
        entry = self._entries.popleft()
        self._must_pad = entry.padding
        if entry.tokens:
            self._main.extend(entry.tokens)
            self._may_pad = self._max_padding
            shown = self._word(self._ahead - 1) if self._ahead else None
            self._second.extend(shown.tokens if shown else ())
        return entry

    def _word(self, number: int) -> TtsEntry | None:
        """Return a word that waits, counted from 0 without the pauses, or None."""
        return next(islice((entry for entry in self._entries if entry.tokens), number, None), None)
