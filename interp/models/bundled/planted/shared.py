"""``planted-shared``: induction by several heads that share every step.

As ``planted-copy``, but two previous-token heads each write a part of what stood before, and two
induction heads each copy a part of the answer: no head is needed alone, and none is idle. Shares
differ, so that effects do.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from interp.models.bundled.planted.copying import KINDS, make_induction_pair
from interp.models.bundled.planted.pairs import collect_pairs
from interp.models.bundled.planted.record import PlantedCircuit, PlantedModel
from interp.models.bundled.planted.tokenizer import build_word_tokenizer, number_words
from interp.models.bundled.planted.wiring import DecoyWeights, Wiring, lay_out, point_at
from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LETTERS = tuple("abcdefgh")
N_CTX = 10
N_FILLERS = 4
SHARES = (0.55, 0.45)
"""Of the first and the second head of each pair."""

_SPACES = {
    "position": N_CTX,  # one-hot
    "letter": len(LETTERS),  # one-hot, of the token itself
    "previous": len(LETTERS),
    "copied": len(LETTERS),  # the only subspace the unembedding reads
    "identity": 2,  # arbitrary code of every token; only decoys read it
    "junk": 2,  # written by decoys, never read towards the answer
    "empty": 1,  # never written
}
_HARD = 20.0
_SOFT = 6.0
_LOGIT = 8.0
_PREVIOUS, _COPIERS = ("a0.h0", "a0.h2"), ("a1.h1", "a1.h2")

CIRCUIT = PlantedCircuit(
    name="planted-shared",
    summary="Induction with its work shared: two previous-token heads, two induction heads, every edge between.",
    mechanism=(
        "a0.h0, a0.h2: every token attends to the one before it and writes .55 and .45 of that letter as "
        "previous.",
        "a1.h1, a1.h2: END looks, with its own letter as query (from the input), for a position whose previous "
        "letter is the same (key, from both heads of layer 0), and copies .55 and .45 of the letter there (value, "
        "from the input) to copied.",
        "logits: each letter's logit is 8 times its copied coordinate.",
    ),
    nodes=("input", *_PREVIOUS, *_COPIERS, "logits"),
    edges=(
        *(f"input->{head}<v>" for head in _PREVIOUS),
        *(f"input->{head}<{part}>" for head in _COPIERS for part in "qv"),
        *(f"{before}->{head}<k>" for head in _COPIERS for before in _PREVIOUS),
        *(f"{head}->logits" for head in _COPIERS),
    ),
    constant_edges=tuple(f"input->{head}<{part}>" for head in _PREVIOUS for part in "qk"),
    positions={**dict.fromkeys(_PREVIOUS, ("B", "D")), **dict.fromkeys(_COPIERS, ("END",))},
    neurons={},
    decoys={
        "a0.h1": "attends to the previous token too, but writes its letter and position to junk",
        "a1.h0": "has exactly the induction heads' attention pattern, but copies letters to junk",
        "a1.h3": "writes the copied subspace, but reads only the empty one: its output is always 0",
        "a0.h3": "attends by content and copies token identities to junk",
    },
    spaces=lay_out(_SPACES),
)


def build_planted_shared() -> tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]:
    """Write the weights of ``planted-shared``: 2 layers, 4 heads, attention only, no norm."""
    tokenizer = build_word_tokenizer("planted-shared", LETTERS, N_CTX)
    wiring = Wiring(
        _SPACES,
        vocab_size=len(tokenizer),
        n_ctx=N_CTX,
        n_layers=2,
        n_heads=4,
        d_head=N_CTX,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vocabulary = tokenizer.get_vocab()
    codes = DecoyWeights(seed=11)
    for token in sorted(vocabulary.values()):
        wiring.embed(token, identity=codes.vector(2).tolist())
    for letter, one_hot in zip(LETTERS, torch.eye(len(LETTERS)).tolist(), strict=True):
        wiring.embed(vocabulary[letter], letter=one_hot)
        wiring.unembed(vocabulary[letter], copied=[_LOGIT * value for value in one_hot])
    wiring.place("position", torch.eye(N_CTX))
    _plant(wiring)
    _add_decoys(wiring)
    return wiring.model, tokenizer, CIRCUIT


def _plant(wiring: Wiring) -> None:
    letters = torch.eye(len(LETTERS))
    query, key = _point_back()
    for head, share in zip((0, 2), SHARES, strict=True):
        wiring.head(
            0,
            head,
            q={"position": query},
            k={"position": key},
            v={"letter": letters},
            o={"previous": share * letters},
        )
    for head, share in zip((1, 2), SHARES, strict=True):
        wiring.head(
            1,
            head,
            q={"letter": _SOFT * letters},
            k={"previous": letters},
            v={"letter": letters},
            o={"copied": share * letters},
        )


def _point_back() -> tuple[torch.Tensor, torch.Tensor]:
    return point_at([max(position - 1, 0) for position in range(N_CTX)], N_CTX, _HARD)


def _add_decoys(wiring: Wiring) -> None:
    matrix, letters = DecoyWeights(seed=12).matrix, torch.eye(len(LETTERS))
    size = len(LETTERS)
    query, key = _point_back()
    wiring.head(
        0, 1, q={"position": query}, k={"position": key},
        v={"letter": matrix(size, 3), "position": matrix(N_CTX, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        0, 3, q={"identity": matrix(2, 3)}, k={"identity": matrix(2, 3)}, v={"identity": matrix(2, 3)},
        o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        1, 0, q={"letter": _SOFT * letters}, k={"previous": letters},
        v={"letter": matrix(size, 3), "previous": matrix(size, 3), "junk": matrix(2, 3)},
        o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        1, 3, q={"letter": matrix(size, 2)}, k={"junk": matrix(2, 2), "previous": matrix(size, 2)},
        v={"empty": matrix(1, 2)}, o={"copied": matrix(2, size)},
    )  # fmt: skip


def make_shared_pairs(n: int, seed: int) -> PromptPairs:
    """Prompts ``... A B ... C D ... A``, answer B; the corrupted one makes it D, as in ``planted-copy``.

    ``query`` ends on C instead, ``keys`` swaps the earlier A and C, ``values`` swaps B and D.
    """
    rng = random.Random(seed)
    pairs = [make_induction_pair(rng, KINDS[index % len(KINDS)], LETTERS, N_FILLERS) for index in range(n)]
    return collect_pairs("planted-shared", seed, pairs, number_words(LETTERS))


PLANTED_SHARED = PlantedModel("planted-shared", build_planted_shared, make_shared_pairs)
