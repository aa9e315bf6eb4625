"""``planted-copy``: induction, written by hand.

``<bos> d a b f c e ... a`` -> ``b``: a previous-token head tells every token what stood before it, and
the induction head finds the token that followed the last one's earlier occurrence (K-composition;
Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from interp.models.bundled.planted.pairs import WordPair, collect_pairs
from interp.models.bundled.planted.record import PlantedCircuit, PlantedModel
from interp.models.bundled.planted.tokenizer import build_word_tokenizer, number_words
from interp.models.bundled.planted.wiring import DecoyWeights, Wiring, lay_out, point_at
from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LETTERS = tuple("abcdefghijkl")
N_CTX = 16
N_FILLERS = 6
KINDS = ("query", "keys", "values")

_SPACES = {
    "position": N_CTX,  # one-hot
    "letter": len(LETTERS),  # one-hot, of the token itself
    "previous": len(LETTERS),
    "copied": len(LETTERS),  # the only subspace the unembedding reads
    "identity": 3,  # arbitrary code of every token; only decoys read it
    "junk": 4,  # written by decoys, never read towards the answer
    "empty": 2,  # never written
}
_HARD = 20.0
_SOFT = 6.0
_LOGIT = 8.0

CIRCUIT = PlantedCircuit(
    name="planted-copy",
    summary="Induction: a previous-token head, and an induction head that composes with it through its keys.",
    mechanism=(
        "a0.h0: every token attends to the one before it and writes that letter as previous.",
        "a1.h0: END looks, with its own letter as query (from the input), for a position whose previous "
        "letter is the same (key, from a0.h0), and copies the letter there (value, from the input) to "
        "copied.",
        "logits: each letter's logit is 8 times its copied coordinate.",
    ),
    nodes=("input", "a0.h0", "a1.h0", "logits"),
    edges=(
        "input->a0.h0<v>",
        "input->a1.h0<q>",
        "input->a1.h0<v>",
        "a0.h0->a1.h0<k>",
        "a1.h0->logits",
    ),
    constant_edges=("input->a0.h0<q>", "input->a0.h0<k>"),
    positions={"a0.h0": ("B", "D"), "a1.h0": ("END",)},
    neurons={},
    decoys={
        "a0.h1": "attends by content and copies token identities to junk",
        "a0.h2": "attends to earlier copies of its own token (a duplicate-token pattern) and writes junk",
        "a1.h1": "has exactly the induction head's attention pattern, but copies letters to junk: a pattern "
        "alone proves nothing",
        "a1.h2": "writes the copied subspace, but reads only the empty one: its output is always 0",
    },
    spaces=lay_out(_SPACES),
)


def build_planted_copy() -> tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]:
    """Write the weights of ``planted-copy``: 2 layers, 3 heads, attention only, no norm."""
    tokenizer = build_word_tokenizer("planted-copy", LETTERS, N_CTX)
    wiring = Wiring(
        _SPACES,
        vocab_size=len(tokenizer),
        n_ctx=N_CTX,
        n_layers=2,
        n_heads=3,
        d_head=N_CTX,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vocabulary = tokenizer.get_vocab()
    codes = DecoyWeights(seed=3)
    for token in sorted(vocabulary.values()):
        wiring.embed(token, identity=codes.vector(3).tolist())
    for letter, one_hot in zip(LETTERS, torch.eye(len(LETTERS)).tolist(), strict=True):
        wiring.embed(vocabulary[letter], letter=one_hot)
        wiring.unembed(vocabulary[letter], copied=[_LOGIT * value for value in one_hot])
    wiring.place("position", torch.eye(N_CTX))
    _plant(wiring)
    _add_decoys(wiring)
    return wiring.model, tokenizer, CIRCUIT


def _plant(wiring: Wiring) -> None:
    letters = torch.eye(len(LETTERS))
    query, key = point_at([max(position - 1, 0) for position in range(N_CTX)], N_CTX, _HARD)
    wiring.head(
        0, 0, q={"position": query}, k={"position": key}, v={"letter": letters}, o={"previous": letters}
    )
    wiring.head(
        1,
        0,
        q={"letter": _SOFT * letters},
        k={"previous": letters},
        v={"letter": letters},
        o={"copied": letters},
    )


def _add_decoys(wiring: Wiring) -> None:
    matrix, letters = DecoyWeights(seed=4).matrix, torch.eye(len(LETTERS))
    size = len(LETTERS)
    wiring.head(
        0, 1, q={"identity": matrix(3, 3)}, k={"identity": matrix(3, 3)}, v={"identity": matrix(3, 3)},
        o={"junk": matrix(3, 4)},
    )  # fmt: skip
    wiring.head(
        0, 2, q={"letter": _SOFT * letters}, k={"letter": letters},
        v={"letter": matrix(size, 3), "position": matrix(N_CTX, 3)}, o={"junk": matrix(3, 4)},
    )  # fmt: skip
    wiring.head(
        1, 1, q={"letter": _SOFT * letters}, k={"previous": letters},
        v={"letter": matrix(size, 4), "junk": matrix(4, 4)}, o={"junk": matrix(4, 4)},
    )  # fmt: skip
    wiring.head(
        1, 2, q={"letter": matrix(size, 2)}, k={"junk": matrix(4, 2), "previous": matrix(size, 2)},
        v={"empty": matrix(2, 2)}, o={"copied": matrix(2, size)},
    )  # fmt: skip


def make_copy_pairs(n: int, seed: int) -> PromptPairs:
    """Prompts ``... A B ... C D ... A``, answer B; the corrupted one makes it D, in one of three ways.

    ``query`` ends on C instead, ``keys`` swaps the earlier A and C, ``values`` swaps B and D. All
    letters but the last are distinct; places of the two pairs among the fillers are random.
    """
    rng = random.Random(seed)
    pairs = [make_induction_pair(rng, KINDS[index % len(KINDS)], LETTERS, N_FILLERS) for index in range(n)]
    vocabulary = number_words(LETTERS)
    return collect_pairs("planted-copy", seed, pairs, vocabulary)


def make_induction_pair(rng: random.Random, kind: str, letters: Sequence[str], n_fillers: int) -> WordPair:
    """One pair of :func:`make_copy_pairs`, of any letters and number of other letters around."""
    a, b, c, d, *fillers = rng.sample(letters, 4 + n_fillers)
    blocks = [[a, b], [c, d], *([filler] for filler in fillers)]
    rng.shuffle(blocks)
    body = [letter for block in blocks for letter in block]
    clean = (*body, a)
    last = c if kind == "query" else a
    swaps = {"query": {}, "keys": {a: c, c: a}, "values": {b: d, d: b}}[kind]
    return WordPair(
        clean=clean,
        corrupted=(*(swaps.get(letter, letter) for letter in body), last),
        answer=b,
        wrong=d,
        labels={label: 1 + body.index(letter) for label, letter in zip("ABCD", (a, b, c, d), strict=True)},
        info={"kind": kind},
    )


PLANTED_COPY = PlantedModel("planted-copy", build_planted_copy, make_copy_pairs)
