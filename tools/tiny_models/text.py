"""Open sentences of the words in `words`: a small grammar, numbers, spelling, commands, and loose
strings of words.
"""

from __future__ import annotations

import random

from tools.tiny_models import words as w

_VERBS = w.verbs()
_TRANSITIVE = [verb for verb in _VERBS if verb[4] == "t"]
_MOTION = [verb for verb in _VERBS if verb[4] == "p"]
_PLAIN = [verb for verb in _VERBS if verb[4] == "i"]
_NOUNS = sorted(set(w.NOUNS))
_COUNT = [noun for noun in _NOUNS if noun not in w.MASS]
_MASS = [noun for noun in _NOUNS if noun in w.MASS]
_PREPOSITIONS = "in on near behind under over across around between through by with without from to along into".split()
_SAME_SOUND = set(
    """a an the i to too two for four by buy no know new knew see right write red read one won their there its hour our son sun are
    be been in or of wood would whole hole blue blew ate eight made meat meet week weak way weigh piece peace plane plain road rode
    rose rows sail sale some sum tail steel steal wait weight pair pear male mail male ring night knight not knot wear where which witch
    flower flour bear bare break brake cent sent deer dear higher hire him hymn hear here loan lone main mane passed past past pause
    rain reign role roll sea seen scene so sew sore soar threw through throne thrown toe tow waist waste won an and than then were where
    who's whose you your led lead nose knows""".split()
)
_LOOSE = [
    word for word in w.vocabulary() if word not in _SAME_SOUND and len(word) > 1 and "'" not in word
]


class TextGenerator:
    """Draws sentences. The same seed gives the same sentences."""

    def __init__(self, seed: int | str) -> None:
        self._rng = random.Random(f"tiny-text-{seed}")

    def sentence(self) -> list[str]:
        """Return the words of one sentence: lower case, spelled letters upper case, `,` as a word
        of its own for a short pause.
        """
        return flat(self._sentence())

    def _sentence(self) -> list[str]:
        draw = self._rng.random()
        if draw < 0.50:
            return self._clauses()
        if draw < 0.62:
            return self._loose()
        if draw < 0.74:
            return self._command()
        if draw < 0.84:
            return self._numbers()
        if draw < 0.92:
            return self._date()
        return self._spelling()

    def _pick(self, options: list[str]) -> str:
        return self._rng.choice(options)

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _clauses(self) -> list[str]:
        first = self._clause()
        if self._chance(0.3) and len(first) < 9:
            joint = self._pick(
                ["and", "but", "because", "so", "while", "when", "if", "before", "after", "until"]
            )
            return first + ([","] if self._chance(0.3) else []) + [joint] + self._clause()
        return first

    def _noun_phrase(self, *, plain: bool = False) -> tuple[list[str], bool]:
        """Return the words and whether they are plural."""
        draw = self._rng.random()
        if draw < 0.12 and not plain:
            return [self._pick(w.NAMES)], False
        if draw < 0.2:
            adjective = [self._pick(w.ADJECTIVES)] if self._chance(0.4) else []
            return [
                self._pick(["the", "some", "my", "your", "this", "that"]),
                *adjective,
                self._pick(_MASS),
            ], False
        noun = self._pick(_COUNT)
        adjective = [self._pick(w.ADJECTIVES)] if self._chance(0.45) else []
        if self._chance(0.35):
            determiner = self._pick(
                [
                    "the",
                    "these",
                    "those",
                    "my",
                    "your",
                    "his",
                    "her",
                    "our",
                    "their",
                    "some",
                    "many",
                    "few",
                    "several",
                    "all the",
                ]
            )
            if self._chance(0.2):
                determiner = self._pick(w.DIGITS[2:] + w.TEENS + w.TENS)
            return [*determiner.split(), *adjective, w.plural(noun)], True
        determiner = self._pick(
            [
                "the",
                "the",
                "the",
                "a",
                "my",
                "your",
                "his",
                "her",
                "our",
                "their",
                "this",
                "that",
                "every",
                "another",
                "one",
            ]
        )
        if determiner == "another":
            determiner = "the"
        following = (adjective or [noun])[0]
        if (
            determiner == "a"
            and following[0] in "aeiou"
            and following not in ("useful", "usual", "one", "uniform")
        ):
            determiner = "an"
        return [determiner, *adjective, noun], False

    def _subject(self) -> tuple[list[str], str]:
        """Return the words and the person: `i`, `s` for third person singular, `p` for the rest."""
        if self._chance(0.42):
            word = self._pick(["i", "you", "he", "she", "it", "we", "they"])
            return [word], {"i": "i", "you": "p", "we": "p", "they": "p"}.get(word, "s")
        if self._chance(0.4):
            return [
                self._pick(
                    ["the", "my", "your", "his", "her", "our", "their", "the old", "the young"]
                ),
                self._pick(w.PEOPLE),
            ][:2], "s"
        phrase, is_plural = self._noun_phrase()
        return phrase, "p" if is_plural else "s"

    def _place(self) -> list[str]:
        return [
            self._pick(_PREPOSITIONS),
            self._pick(["the", "the", "the", "my", "your", "our", "a"]),
            *([self._pick(w.ADJECTIVES)] if self._chance(0.2) else []),
            self._pick(w.PLACES),
        ]

    def _when(self) -> list[str]:
        draw = self._rng.random()
        if draw < 0.35:
            return [
                self._pick(
                    ["today", "tomorrow", "tonight", "yesterday", "now", "soon", "again", "later"]
                )
            ]
        if draw < 0.6:
            return [
                "on",
                self._pick(w.DAYS),
                *([self._pick(["morning", "evening", "night"])] if self._chance(0.4) else []),
            ]
        if draw < 0.75:
            return ["in", self._pick(w.MONTHS)]
        if draw < 0.9:
            return [
                self._pick(["every", "next", "last", "this"]),
                self._pick(
                    ["day", "week", "month", "year", "summer", "winter", "morning", *w.DAYS]
                ),
            ]
        return ["at", *self._clock()]

    def _clock(self) -> list[str]:
        hour = self._pick([*w.DIGITS[1:], "ten", "eleven", "twelve"])
        draw = self._rng.random()
        if draw < 0.35:
            return [hour, "o'clock"]
        if draw < 0.6:
            return [hour, self._pick([*w.TENS[:4], "fifteen"])]
        return [self._pick(["half", "quarter"]), "past", hour]

    def _clause(self) -> list[str]:
        subject, person = self._subject()
        draw = self._rng.random()
        if draw < 0.2:
            be = {"i": ["am", "was"], "s": ["is", "was"], "p": ["are", "were"]}[person]
            complement = [
                *(
                    [self._pick(["very", "not", "almost", "still", "never", "always"])]
                    if self._chance(0.35)
                    else []
                ),
                self._pick(w.ADJECTIVES),
            ]
            if self._chance(0.35):
                complement = self._place()
            if self._chance(0.1):
                complement = [
                    self._pick(["more", "less"]),
                    self._pick(w.ADJECTIVES),
                    "than",
                    *self._noun_phrase()[0],
                ]
            elif self._chance(0.1):
                complement = (
                    ["too", self._pick(w.ADJECTIVES)]
                    if self._chance(0.5)
                    else [self._pick(w.ADJECTIVES), "or", self._pick(w.ADJECTIVES)]
                )
            return [
                *subject,
                self._pick(be),
                *complement,
                *(self._when() if self._chance(0.2) else []),
            ]
        verb = self._rng.choice(self._rng.choice([_TRANSITIVE, _TRANSITIVE, _MOTION, _PLAIN]))
        base, third, past, doing, kind = verb
        form = self._rng.random()
        if form < 0.35:
            verb_words = [past]
        elif form < 0.55:
            verb_words = [third if person == "s" else base]
        elif form < 0.75:
            verb_words = [
                self._pick(["will", "can", "could", "should", "would", "must", "might", "may"]),
                *(["not"] if self._chance(0.15) else []),
                base,
            ]
        elif form < 0.9:
            verb_words = [
                (
                    {"i": "am", "s": "is", "p": "are"}[person]
                    if self._chance(0.5)
                    else ("were" if person == "p" else "was")
                ),
                doing,
            ]
        else:
            verb_words = [
                self._pick(["did", "do"]) if person != "s" else self._pick(["did", "does"]),
                "not",
                base,
            ]
        if self._chance(0.12):
            verb_words = [
                self._pick(
                    [
                        "often",
                        "always",
                        "never",
                        "sometimes",
                        "usually",
                        "also",
                        "just",
                        "almost",
                        "finally",
                        "already",
                    ]
                ),
                *verb_words,
            ]
        rest: list[str] = []
        if kind == "t":
            rest = (
                self._noun_phrase()[0]
                if self._chance(0.85)
                else [
                    self._pick(
                        [
                            "it",
                            "them",
                            "him",
                            "us",
                            "me",
                            "you",
                            "everything",
                            "nothing",
                            "something",
                        ]
                    )
                ]
            )
        elif kind == "p":
            rest = ["to", "the", self._pick(w.PLACES)] if self._chance(0.5) else self._place()
        if self._chance(0.3):
            rest += self._place()
        if self._chance(0.22):
            rest += [self._pick(w.ADVERBS)]
        elif self._chance(0.22):
            rest += self._when()
        words = [*subject, *verb_words, *rest]
        if self._chance(0.08):
            return [*self._when(), *words]
        if self._chance(0.06):
            return [
                self._pick(["why", "how", "where", "when"]),
                {"i": "do", "p": "do", "s": "does"}[person],
                *subject,
                base,
                *(rest if kind != "i" else []),
            ]
        return words

    def _loose(self) -> list[str]:
        return [self._pick(_LOOSE) for _ in range(self._rng.randint(2, 8))]

    def number(self) -> list[str]:
        """Return the words of a number below ten thousand."""
        draw = self._rng.random()
        if draw < 0.3:
            return [self._pick(w.DIGITS + w.TEENS)]
        if draw < 0.7:
            return [self._pick(w.TENS), *([self._pick(w.DIGITS[1:])] if self._chance(0.75) else [])]
        tail = (
            [self._pick(w.TENS), *([self._pick(w.DIGITS[1:])] if self._chance(0.6) else [])]
            if self._chance(0.7)
            else []
        )
        return [self._pick(w.DIGITS[1:]), self._pick(["hundred", "hundred", "thousand"]), *tail]

    def _numbers(self) -> list[str]:
        draw = self._rng.random()
        if draw < 0.35:
            return [self._pick(w.DIGITS) for _ in range(self._rng.randint(3, 9))]
        if draw < 0.5:
            return self.number()
        noun = w.plural(self._pick(_COUNT))
        if draw < 0.7:
            return ["there", "are", *self.number(), noun, *self._place()]
        if draw < 0.85:
            return [
                self._pick(
                    ["room", "page", "line", "bus", "train", "gate", "number", "house", "channel"]
                ),
                *self.number(),
                *(["is", self._pick(w.ADJECTIVES)] if self._chance(0.4) else []),
            ]
        return [
            self._pick(["the price is", "it costs", "i paid", "we have", "she counted", "add"]),
            *self.number(),
            self._pick(["dollars", noun, "percent", "degrees"]),
        ]

    def _date(self) -> list[str]:
        day = self._pick(
            [*w.ORDINALS, "thirteenth", "fourteenth", "fifteenth", "twentieth", "thirtieth"][:12]
        )
        draw = self._rng.random()
        if draw < 0.3:
            return ["on", self._pick(w.DAYS), "the", day, "of", self._pick(w.MONTHS)]
        if draw < 0.5:
            return [
                self._pick(w.MONTHS),
                day,
                *([","] if self._chance(0.5) else []),
                *self._clause(),
            ]
        if draw < 0.75:
            return [
                self._pick(
                    [
                        "the meeting is",
                        "we leave",
                        "the train arrives",
                        "she was born",
                        "the shop opens",
                        "it happened",
                    ]
                ),
                *self._when(),
            ]
        days = [self._pick(w.DAYS + w.MONTHS) for _ in range(self._rng.randint(2, 4))]
        return [*days[:-1], "and", days[-1]]

    def _spelling(self) -> list[str]:
        letters = [self._pick(w.LETTERS).upper() for _ in range(self._rng.randint(2, 6))]
        draw = self._rng.random()
        if draw < 0.4:
            return letters
        if draw < 0.7:
            return [
                *self._pick(
                    [
                        "the code is",
                        "my name is spelled",
                        "the password is",
                        "type the letters",
                        "gate",
                    ]
                ).split(),
                *letters,
            ]
        word = self._pick([*w.NAMES, *_COUNT])
        if len(word) < 9 and draw < 0.9:
            return [word, "is", "spelled", *word.upper()]
        return [*letters[:3], *[self._pick(w.DIGITS) for _ in range(self._rng.randint(1, 4))]]

    def _command(self) -> list[str]:
        words: list[str] = []
        for part in self._pick(w.COMMANDS).split():
            if "{" not in part:
                words.append(part)
                continue
            slot = part.strip("{}")
            if slot == "do":
                verb = self._rng.choice(_TRANSITIVE)
                words += [verb[0], "the", self._pick(_COUNT)]
            elif slot in ("thing", "place", "person"):
                words.append(
                    self._pick({"thing": _COUNT, "place": w.PLACES, "person": w.PEOPLE}[slot])
                )
            elif slot == "device":
                words.append(self._pick(w.DEVICES))
            elif slot == "name":
                words.append(self._pick(w.NAMES))
            elif slot in ("updown", "onoff"):
                words.append(self._pick(["up", "down"] if slot == "updown" else ["on", "off"]))
            elif slot == "number":
                words += self.number()
            elif slot == "clock":
                words += self._clock()
            elif slot == "when":
                words += self._when()
            elif slot in ("day", "month"):
                words.append(self._pick(w.DAYS if slot == "day" else w.MONTHS))
        return words


def flat(words: list[str]) -> list[str]:
    """Return single words, whatever phrases the grammar joined."""
    return [single for word in words for single in word.split()]
