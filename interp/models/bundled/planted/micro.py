"""``micro``: look a name up in a two-entry table, then flip the answer if told to.

``<bos> flip : ann hot bob cold ask bob =`` -> ``yes``: bob is cold, so not hot, flipped.
Query, key and value composition each carry one part of it, and an MLP computes the final XOR.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.models.bundled.planted.pairs import WordPair, collect_pairs
from interp.models.bundled.planted.record import PlantedCircuit, PlantedModel
from interp.models.bundled.planted.tokenizer import build_word_tokenizer, number_words
from interp.models.bundled.planted.wiring import DecoyWeights, Wiring, lay_out, point_at
from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAMES = ("ann", "bob", "cat", "dan")
WORDS = ("plain", "flip", ":", *NAMES, "hot", "cold", "ask", "=", "yes", "no")
N_CTX = 12
KINDS = ("query", "names", "values", "mode")

_SPACES = {
    "position": N_CTX,  # one-hot
    "name": 4,  # one-hot, of the token itself
    "heat": 1,  # hot +1, cold -1
    "mode": 1,  # plain +1, flip -1
    "identity": 3,  # arbitrary code of every token; only decoys read it
    "previous_name": 4,
    "asked_name": 4,
    "register": 1,  # the mode, one position later
    "found_heat": 1,
    "found_mode": 1,
    "answer": 1,  # yes is +1, no is -1
    "junk": 3,  # written by decoys, never read towards the answer
    "empty": 1,  # never written
}
_HARD = 20.0  # positional attention: e^-20 leaks elsewhere
_SOFT = 6.0  # name matching: 2 % leaks, so that gradients through q and k are not zero

CIRCUIT = PlantedCircuit(
    name="micro",
    summary="Table look-up by name (q- and k-composition), a mode moved twice (v-composition), an MLP.",
    mechanism=(
        "a0.h0: each table value attends to the name before it and writes that name as previous_name.",
        "a0.h1: END attends to the asked name and writes it as asked_name.",
        "a0.h2: the ':' attends to the mode word before it and writes it to the register.",
        "a1.h0: END matches asked_name (query, from a0.h1) with previous_name (key, from a0.h0) and copies "
        "the value's heat from the input to found_heat.",
        "a1.h1: END attends to ':' and copies the register (value, from a0.h2) to found_mode.",
        "m1: four ReLU neurons write |heat + mode| - |heat - mode| to the answer: positive when they agree.",
        "logits: 'yes' reads the answer, 'no' its negative.",
    ),
    nodes=("input", "a0.h0", "a0.h1", "a0.h2", "a1.h0", "a1.h1", "m1", "logits"),
    edges=(
        "input->a0.h0<v>",
        "input->a0.h1<v>",
        "input->a0.h2<v>",
        "input->a1.h0<v>",
        "a0.h0->a1.h0<k>",
        "a0.h1->a1.h0<q>",
        "a0.h2->a1.h1<v>",
        "a1.h0->m1",
        "a1.h1->m1",
        "m1->logits",
    ),
    constant_edges=tuple(
        f"input->{head}<{part}>" for head in ("a0.h0", "a0.h1", "a0.h2", "a1.h1") for part in "qk"
    ),
    positions={
        "a0.h0": ("VALUE1", "VALUE2"),
        "a0.h1": ("END",),
        "a0.h2": ("COLON",),
        "a1.h0": ("END",),
        "a1.h1": ("END",),
        "m1": ("END",),
    },
    neurons={"m1": (0, 1, 2, 3)},
    decoys={
        "a0.h3": "attends by content and copies token identities to junk",
        "a1.h2": "attends exactly as a1.h0 does, but copies names and junk to junk",
        "a1.h3": "writes the answer direction, but reads only the empty subspace: its output is always 0",
        "m0": "ReLU of names, heat, mode and identities, written to junk; two neurons would write the "
        "answer, but their input never exceeds 0",
    },
    spaces=lay_out(_SPACES),
)


def build_micro() -> tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]:
    """Write the weights of ``micro``: 2 layers, 4 heads, 8 ReLU neurons a layer, no norm."""
    tokenizer = build_word_tokenizer("micro", WORDS, N_CTX)
    wiring = Wiring(
        _SPACES,
        vocab_size=len(tokenizer),
        n_ctx=N_CTX,
        n_layers=2,
        n_heads=4,
        d_head=N_CTX,
        d_mlp=8,
        act="relu",
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _embed(wiring, tokenizer.get_vocab())
    _plant(wiring)
    _add_decoys(wiring)
    return wiring.model, tokenizer, CIRCUIT


def _embed(wiring: Wiring, vocabulary: dict[str, int]) -> None:
    codes = DecoyWeights(seed=1)
    for token in sorted(vocabulary.values()):
        wiring.embed(token, identity=codes.vector(3).tolist())
    for name, one_hot in zip(NAMES, torch.eye(4).tolist(), strict=True):
        wiring.embed(vocabulary[name], name=one_hot)
    for word, sign in (("hot", 1.0), ("cold", -1.0)):
        wiring.embed(vocabulary[word], heat=sign)
    for word, sign in (("plain", 1.0), ("flip", -1.0)):
        wiring.embed(vocabulary[word], mode=sign)
    for word, sign in (("yes", 1.0), ("no", -1.0)):
        wiring.unembed(vocabulary[word], answer=sign)
    wiring.place("position", torch.eye(N_CTX))


def _point(moves: dict[int, int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Query and key of a head in which these positions attend to those, and all others to ``<bos>``."""
    query, key = point_at([moves.get(position, 0) for position in range(N_CTX)], N_CTX, _HARD)
    return {"position": query}, {"position": key}


def _plant(wiring: Wiring) -> None:
    one, names = torch.ones(1, 1), torch.eye(4)
    q, k = _point({4: 3, 6: 5})
    wiring.head(0, 0, q=q, k=k, v={"name": names}, o={"previous_name": names})
    q, k = _point({9: 8})
    wiring.head(0, 1, q=q, k=k, v={"name": names}, o={"asked_name": names})
    q, k = _point({2: 1})
    wiring.head(0, 2, q=q, k=k, v={"mode": one}, o={"register": one})
    wiring.head(
        1,
        0,
        q={"asked_name": _SOFT * names},
        k={"previous_name": names},
        v={"heat": one},
        o={"found_heat": one},
    )
    q, k = _point({9: 2})
    wiring.head(1, 1, q=q, k=k, v={"register": one}, o={"found_mode": one})
    for index, (heat, mode, sign) in enumerate([(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)]):
        wiring.neuron(
            1,
            index,
            reads={"found_heat": torch.tensor([float(heat)]), "found_mode": torch.tensor([float(mode)])},
            writes={"answer": torch.tensor([1.5 * sign])},
        )


def _add_decoys(wiring: Wiring) -> None:
    random_weights = DecoyWeights(seed=2)
    matrix, vector, names = random_weights.matrix, random_weights.vector, torch.eye(4)
    wiring.head(
        0, 3, q={"identity": matrix(3, 3)}, k={"identity": matrix(3, 3)}, v={"identity": matrix(3, 3)},
        o={"junk": matrix(3, 3)},
    )  # fmt: skip
    wiring.head(
        1, 2, q={"asked_name": _SOFT * names}, k={"previous_name": names},
        v={"name": matrix(4, 3), "heat": matrix(1, 3), "junk": matrix(3, 3)}, o={"junk": matrix(3, 3)},
    )  # fmt: skip
    wiring.head(
        1, 3, q={"identity": matrix(3, 2)}, k={"junk": matrix(3, 2), "name": matrix(4, 2)},
        v={"empty": matrix(1, 2)}, o={"answer": matrix(2, 1)},
    )  # fmt: skip
    for layer, first in ((0, 0), (1, 4)):
        for index in range(first, 6):
            wiring.neuron(
                layer,
                index,
                reads={"name": vector(4), "heat": vector(1), "mode": vector(1), "identity": vector(3)},
                writes={"junk": vector(3)},
                bias=0.25,
            )
        for index in (6, 7):
            wiring.neuron(layer, index, reads={"empty": vector(1)}, writes={"answer": vector(1)}, bias=-0.5)


def make_micro_pairs(n: int, seed: int) -> PromptPairs:
    """Pairs that differ in the asked name, the table's names, its values or the mode, one kind each in turn.

    Each change alone flips the answer between ``yes`` and ``no``.
    """
    rng = random.Random(seed)
    pairs = [_make_pair(rng, KINDS[index % len(KINDS)]) for index in range(n)]
    return collect_pairs("micro", seed, pairs, number_words(WORDS))


def _make_pair(rng: random.Random, kind: str) -> WordPair:
    names = rng.sample(NAMES, 2)
    values = rng.sample(["hot", "cold"], 2)
    mode = rng.choice(["plain", "flip"])
    asked = rng.randrange(2)
    clean = (mode, ":", names[0], values[0], names[1], values[1], "ask", names[asked], "=")
    changed = {
        "query": {7: names[1 - asked]},
        "names": {2: names[1], 4: names[0]},
        "values": {3: values[1], 5: values[0]},
        "mode": {0: "flip" if mode == "plain" else "plain"},
    }[kind]
    says_yes = (values[asked] == "hot") == (mode == "plain")
    return WordPair(
        clean=clean,
        corrupted=tuple(changed.get(index, word) for index, word in enumerate(clean)),
        answer="yes" if says_yes else "no",
        wrong="no" if says_yes else "yes",
        labels={"MODE": 1, "COLON": 2, "NAME1": 3, "VALUE1": 4, "NAME2": 5, "VALUE2": 6, "ASKED": 8},
        info={"kind": kind, "mode": mode, "asked": names[asked], "value": values[asked]},
    )


MICRO = PlantedModel("micro", build_micro, make_micro_pairs)
