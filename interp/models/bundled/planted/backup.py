"""``planted-backup``: a head that speaks up when another does not, so that the answer survives.

``<bos> lamp is red and door is open so`` -> ``red``: one head names the lamp's colour. A second looks at
what the first has said and, if that is not the colour it sees, names the colour itself, louder; otherwise
it only whispers. Patching the first head alone leaves the answer standing (backup heads: Wang et al.
2023, "Interpretability in the Wild", section 3.4), and two edges carry a change *against* the answer.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from interp.models.bundled.planted.pairs import WordPair, collect_pairs
from interp.models.bundled.planted.record import PlantedCircuit, PlantedModel
from interp.models.bundled.planted.tokenizer import BOS, build_word_tokenizer, number_words
from interp.models.bundled.planted.wiring import DecoyWeights, Wiring, lay_out
from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

COLOURS = ("red", "green", "blue")
WORDS = ("lamp", "door", "is", "and", "so", *COLOURS, "open", "shut")
N_CTX = 12

_SPACES = {
    "one": 1,  # 1 at every position
    "is_bos": 1,
    "is_colour": 1,
    "colour": 3,  # one-hot
    "door": 1,  # open +1, shut -1
    "identity": 2,  # arbitrary code of every token; only decoys read it
    "said": 3,  # colours named so far; what the unembedding reads
    "junk": 2,  # written by decoys, never read towards the answer
    "empty": 1,  # never written
}
_HARD = 20.0
_EAGER = 1.2  # over <bos>: 98 % of the backup's attention goes to the colour when it was not named ...
_CONTENT = 5.0  # ... and 27 % when it was
_LOUD = 1.5  # so that the backup outvotes a wrong first head
_LOGIT = 8.0

CIRCUIT = PlantedCircuit(
    name="planted-backup",
    summary="Self-repair: a head names a colour, and a backup head names it where the first did not.",
    mechanism=(
        "a0.h0: END attends to the colour and writes it to said.",
        "a1.h0: END attends to the colour or to <bos>; that the colour it sees (key, from the input) was said "
        "(query, from a0.h0) moves it to <bos>. It writes 1.5 times what it sees (value, from the input) to said.",
        "logits: each colour's logit is 8 times its said coordinate.",
        "The query and key edges of a1.h0 work against the answer: with the other prompt's value the backup "
        "misses the colour among what was said, and names it louder.",
    ),
    nodes=("input", "a0.h0", "a1.h0", "logits"),
    edges=(
        "input->a0.h0<v>",
        "a0.h0->a1.h0<q>",
        "input->a1.h0<k>",
        "input->a1.h0<v>",
        "a0.h0->logits",
        "a1.h0->logits",
    ),
    constant_edges=("input->a0.h0<q>", "input->a0.h0<k>", "input->a1.h0<q>"),
    positions={"a0.h0": ("END",), "a1.h0": ("END",)},
    neurons={},
    decoys={
        "a0.h1": "has the first head's attention pattern, but copies colours and doors to junk",
        "a0.h2": "attends by content and copies token identities to junk",
        "a1.h1": "has the backup's attention pattern, but writes junk",
        "a1.h2": "writes the said subspace, but reads only the empty one: its output is always 0",
        "m0": "ReLU of what was said, colours and identities, written to junk",
        "m1": "likewise; two neurons would say a colour, but their input never exceeds 0",
    },
    spaces=lay_out(_SPACES),
)


def build_planted_backup() -> tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]:
    """Write the weights of ``planted-backup``: 2 layers, 3 heads of 4, 6 ReLU neurons, no norm."""
    tokenizer = build_word_tokenizer("planted-backup", WORDS, N_CTX)
    wiring = Wiring(
        _SPACES,
        vocab_size=len(tokenizer),
        n_ctx=N_CTX,
        n_layers=2,
        n_heads=3,
        d_head=4,
        d_mlp=6,
        act="relu",
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _embed(wiring, tokenizer.get_vocab())
    _plant(wiring)
    _add_decoys(wiring)
    return wiring.model, tokenizer, CIRCUIT


def _embed(wiring: Wiring, vocabulary: dict[str, int]) -> None:
    codes = DecoyWeights(seed=7)
    for token in sorted(vocabulary.values()):
        wiring.embed(token, identity=codes.vector(2).tolist())
    wiring.embed(vocabulary[BOS], is_bos=1.0)
    for colour, one_hot in zip(COLOURS, torch.eye(3).tolist(), strict=True):
        wiring.embed(vocabulary[colour], is_colour=1.0, colour=one_hot)
        wiring.unembed(vocabulary[colour], said=[_LOGIT * value for value in one_hot])
    for word, sign in (("open", 1.0), ("shut", -1.0)):
        wiring.embed(vocabulary[word], door=sign)
    wiring.place("one", torch.ones(N_CTX, 1))


def _pad(matrix: torch.Tensor) -> torch.Tensor:
    """A zero column in front: the first of a head's dimensions holds where it looks, the others colours."""
    return torch.cat([torch.zeros(len(matrix), 1), matrix], 1)


def _plant(wiring: Wiring) -> None:
    one, colours = torch.ones(1, 1), torch.eye(3)
    wiring.head(
        0, 0, q={"one": _HARD * one}, k={"is_colour": one}, v={"colour": colours}, o={"said": colours}
    )
    wiring.head(
        1,
        0,
        q={"one": _HARD * one, "said": _pad(-_CONTENT * colours)},
        k={"is_bos": one, "is_colour": _EAGER * one, "colour": _pad(colours)},
        v={"colour": colours},
        o={"said": _LOUD * colours},
    )


def _add_decoys(wiring: Wiring) -> None:
    random_weights = DecoyWeights(seed=8)
    matrix, vector = random_weights.matrix, random_weights.vector
    one, colours = torch.ones(1, 1), torch.eye(3)
    wiring.head(
        0, 1, q={"one": _HARD * one}, k={"is_colour": one},
        v={"colour": matrix(3, 3), "door": matrix(1, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        0, 2, q={"one": matrix(1, 3), "identity": matrix(2, 3)},
        k={"colour": matrix(3, 3), "identity": matrix(2, 3)}, v={"identity": matrix(2, 3)},
        o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        1, 1, q={"one": _HARD * one, "said": _pad(-_CONTENT * colours)},
        k={"is_bos": one, "is_colour": _EAGER * one, "colour": _pad(colours)},
        v={"colour": matrix(3, 3), "said": matrix(3, 3), "junk": matrix(2, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        1, 2, q={"said": matrix(3, 2)}, k={"junk": matrix(2, 2), "colour": matrix(3, 2)},
        v={"empty": matrix(1, 2)}, o={"said": matrix(2, 3)},
    )  # fmt: skip
    for layer, n_busy in ((0, 6), (1, 4)):
        for index in range(n_busy):
            wiring.neuron(
                layer, index, reads={"said": vector(3), "colour": vector(3), "identity": vector(2)},
                writes={"junk": vector(2)}, bias=0.25,
            )  # fmt: skip
    for index in (4, 5):
        wiring.neuron(1, index, reads={"empty": vector(1)}, writes={"said": vector(3)}, bias=-0.5)


def make_backup_pairs(n: int, seed: int) -> PromptPairs:
    """Two clauses in random order; the lamp's colour changes, and the door always."""
    rng = random.Random(seed)
    pairs = [_make_pair(rng) for _ in range(n)]
    return collect_pairs("planted-backup", seed, pairs, number_words(WORDS))


def _make_pair(rng: random.Random) -> WordPair:
    order = rng.sample(["lamp", "door"], 2)
    colours, doors = rng.sample(COLOURS, 2), rng.sample(["open", "shut"], 2)

    def write(colour: str, door: str) -> tuple[str, ...]:
        clauses = [f"{noun} is {colour if noun == 'lamp' else door}" for noun in order]
        return (*" and ".join(clauses).split(), "so")

    return WordPair(
        clean=write(colours[0], doors[0]),
        corrupted=write(colours[1], doors[1]),
        answer=colours[0],
        wrong=colours[1],
        labels={noun.upper(): 3 + 4 * order.index(noun) for noun in ("lamp", "door")},
        info={"kind": "colour"},
    )


PLANTED_BACKUP = PlantedModel("planted-backup", build_planted_backup, make_backup_pairs)
