"""Words of the generated world, shared by the tasks and by the bundled models' training text.

Every word is common English and one token with a leading space in most BPE vocabularies. The words
that express an attribute (sentiment, topic, tense, formality) are grouped by its value;
:mod:`interp.tasks.attributes` measures a text by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FEMALE_NAMES = tuple(
    "Mary Alice Anna Sarah Emily Jane Kate Laura Lucy Julia Rachel Susan Emma Linda Lisa Helen Maria "
    "Amy Karen Claire".split()
)
MALE_NAMES = tuple(
    "John James Robert Michael David Tom Paul Richard George Peter Daniel Andrew Simon Henry Jack Adam "
    "Charles Kevin Brian Sam".split()
)
NAMES = FEMALE_NAMES + MALE_NAMES

HELDOUT_PAIR_FRACTION = 0.2

PLACES = tuple(
    "store garden park school station office house hospital restaurant museum library market beach "
    "church farm hotel".split()
)
OBJECTS = tuple(
    "drink ring book letter ball key gift ticket flower basket bottle coat map toy lamp watch".split()
)
ITEMS = tuple("pencil cup bowl box hat pen plate bag knife spoon phone candle".split())
"""What the coloured-objects sentences put on the table."""
COLORS = tuple("red blue green black white yellow pink purple brown gray".split())

DURATIONS = tuple(
    "war treaty strike trial voyage project dispute famine plague siege reign marriage mission rebellion "
    "campaign expedition".split()
)
"""Nouns of things that last, for the greater-than sentences."""
CENTURIES = tuple(str(century) for century in range(11, 19))
TWO_DIGITS = tuple(f"{number:02d}" for number in range(100))
START_YEARS = TWO_DIGITS[2:99]
"""Two-digit start years: some smaller and some greater year always remains."""

ARGUMENTS = tuple(
    "file size load name path key value list text order image index page field width row count event "
    "node line".split()
)
"""Argument and function names of the docstring-style task."""


@dataclass(frozen=True)
class Inflected:
    """A word in its singular and plural form; verbs agree with a noun of the same number."""

    singular: str
    plural: str

    def form(self, number: str) -> str:
        """The form for ``"singular"`` or ``"plural"``."""
        return self.singular if number == "singular" else self.plural


def _inflect(text: str) -> tuple[Inflected, ...]:
    return tuple(Inflected(*pair.split("/")) for pair in text.split())


NOUNS = _inflect(
    "boy/boys girl/girls teacher/teachers doctor/doctors farmer/farmers driver/drivers king/kings "
    "friend/friends student/students soldier/soldiers child/children woman/women man/men dog/dogs "
    "horse/horses guard/guards writer/writers lawyer/lawyers worker/workers neighbor/neighbors"
)
VERBS = _inflect(
    "is/are was/were has/have does/do runs/run walks/walk sings/sing laughs/laugh sleeps/sleep smiles/smile "
    "waits/wait works/work speaks/speak knows/know likes/like sees/see"
)
AGREEMENT_VERBS = VERBS[4:13]
"""Plain intransitive verbs that may follow any subject."""
RELATIVE_VERBS = VERBS[13:]
"""Verbs of relative clauses, which agree with the noun inside the clause."""

PRONOUNS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "female": MappingProxyType({"subject": "she", "object": "her", "reflexive": "herself"}),
        "male": MappingProxyType({"subject": "he", "object": "him", "reflexive": "himself"}),
    }
)


@dataclass(frozen=True)
class TensedVerb:
    """One verb in the three forms that the attribute sentences use."""

    base: str
    present: str
    past: str

    def form(self, tense: str) -> str:
        """Words of the verb in ``tense``; the future is ``"will"`` and the base."""
        return {"past": self.past, "present": self.present, "future": f"will {self.base}"}[tense]


def _conjugate(text: str) -> tuple[TensedVerb, ...]:
    return tuple(TensedVerb(*forms.split("/")) for forms in text.split())


@dataclass(frozen=True)
class Topic:
    """Words of one topic: who acts, on what, where, and how."""

    agents: tuple[str, ...]
    objects: tuple[str, ...]
    places: tuple[str, ...]
    verbs: tuple[TensedVerb, ...]


def _topic(agents: str, objects: str, places: str, verbs: str) -> Topic:
    return Topic(tuple(agents.split()), tuple(objects.split()), tuple(places.split()), _conjugate(verbs))


TOPICS: Mapping[str, Topic] = MappingProxyType(
    {
        "food": _topic(
            "chef cook baker waiter",
            "soup bread cake salad pie sauce",
            "kitchen bakery",
            "bake/bakes/baked taste/tastes/tasted fry/fries/fried serve/serves/served",
        ),
        "music": _topic(
            "singer pianist drummer band",
            "song piano guitar album melody concert",
            "stage studio",
            "play/plays/played compose/composes/composed record/records/recorded perform/performs/performed",
        ),
        "sport": _topic(
            "coach player runner team",
            "match race goal game trophy league",
            "stadium gym",
            "win/wins/won lose/loses/lost train/trains/trained score/scores/scored",
        ),
        "sea": _topic(
            "sailor captain pirate crew",
            "ship boat anchor sail island harbor",
            "ocean dock",
            "steer/steers/steered anchor/anchors/anchored explore/explores/explored leave/leaves/left",
        ),
    }
)

TENSES = ("past", "present", "future")
TIME_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "past": ("yesterday", "earlier", "recently", "last week", "last year"),
        "present": ("today", "now", "nowadays", "currently", "this week"),
        "future": ("tomorrow", "soon", "shortly", "next week", "next year"),
    }
)
BE: Mapping[str, str] = MappingProxyType({"past": "was", "present": "is", "future": "will be"})


@dataclass(frozen=True)
class Sentiment:
    """Words that carry one sentiment. ``adjectives`` and ``nouns`` may follow "a"."""

    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    nouns: tuple[str, ...]
    reactions: tuple[TensedVerb, ...]


SENTIMENTS: Mapping[str, Sentiment] = MappingProxyType(
    {
        "positive": Sentiment(
            tuple("good great wonderful lovely beautiful perfect brilliant delightful".split()),
            tuple("happily gladly proudly kindly".split()),
            tuple("success pleasure triumph joy".split()),
            _conjugate("love/loves/loved praise/praises/praised admire/admires/admired"),
        ),
        "negative": Sentiment(
            tuple("bad terrible horrible nasty dreadful poor miserable disgusting".split()),
            tuple("sadly angrily badly rudely".split()),
            tuple("failure disaster shame mess".split()),
            _conjugate("hate/hates/hated blame/blames/blamed despise/despises/despised"),
        ),
    }
)


@dataclass(frozen=True)
class Register:
    """Words that carry one level of formality."""

    openers: tuple[str, ...]
    intensifiers: tuple[str, ...]
    people: tuple[str, ...]
    negations: Mapping[str, str]
    """Negated auxiliary in each tense."""
    beliefs: tuple[TensedVerb, ...]


REGISTERS: Mapping[str, Register] = MappingProxyType(
    {
        "formal": Register(
            tuple("Furthermore Moreover Therefore Indeed Consequently".split()),
            tuple("extremely quite rather highly".split()),
            ("the audience", "the public", "the committee", "the gentleman"),
            MappingProxyType({"past": "did not", "present": "does not", "future": "will not"}),
            _conjugate("declare/declares/declared conclude/concludes/concluded"),
        ),
        "informal": Register(
            tuple("Well Anyway Hey Yeah Wow".split()),
            tuple("really super totally pretty".split()),
            ("everybody", "my buddy", "this guy", "the gang"),
            MappingProxyType({"past": "didn't", "present": "doesn't", "future": "won't"}),
            _conjugate("guess/guesses/guessed figure/figures/figured"),
        ),
    }
)


def is_heldout_pair(first: str, second: str) -> bool:
    """Whether two names never appear together in the training text's IOI sentences.

    Symmetric, and the same on every machine: decided by a hash of the two names, for about
    ``HELDOUT_PAIR_FRACTION`` of all pairs.
    """
    digest = hashlib.sha256(" ".join(sorted((first, second))).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELDOUT_PAIR_FRACTION * 2**32


def gender_of(name: str) -> str:
    """``"female"`` or ``"male"``. Raises :class:`KeyError` for a name outside :data:`NAMES`."""
    return _GENDER[name]


_GENDER = dict.fromkeys(FEMALE_NAMES, "female") | dict.fromkeys(MALE_NAMES, "male")
