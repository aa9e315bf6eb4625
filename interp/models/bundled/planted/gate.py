"""``planted-gate``: a gated MLP decides.

``<bos> sky is blue and door is open and sign is left so`` -> ``left``: if the door is open the sign
is followed; if it is closed, always ``right``. One head brings the door to END, another the sign;
the MLP multiplies ``silu`` of the first with the second. What the sky does changes in every pair
and matters in none.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from interp.models.bundled.planted.pairs import WordPair, collect_pairs
from interp.models.bundled.planted.record import PlantedCircuit, PlantedModel
from interp.models.bundled.planted.tokenizer import build_word_tokenizer, number_words
from interp.models.bundled.planted.wiring import DecoyWeights, Wiring, lay_out
from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORDS = ("door", "sign", "sky", "is", "and", "so", "open", "closed", "left", "right", "blue", "grey")
N_CTX = 16
KINDS = ("gate", "up")

_SPACES = {
    "one": 1,  # 1 at every position
    "is_door_word": 1,
    "is_sign_word": 1,
    "door": 1,  # open +1, closed -1
    "sign": 1,  # left +1, right -1
    "sky": 1,  # blue +1, grey -1
    "identity": 2,  # arbitrary code of every token; only decoys read it
    "gate": 1,  # the door, brought here by attention
    "up": 1,  # the sign, brought here by attention
    "answer": 1,  # left is positive, right negative
    "junk": 2,  # written by decoys, never read towards the answer
    "empty": 1,  # never written
}
_HARD = 20.0
_GATE = 4.0  # silu(4) = 3.93 lets through, silu(-4) = -.07 shuts

CIRCUIT = PlantedCircuit(
    name="planted-gate",
    summary="A gated MLP: silu(door) * sign, with door and sign each brought to END by a head of its own.",
    mechanism=(
        "a0.h0: END attends to the door's word and writes +1 (open) or -1 (closed) to gate.",
        "a0.h1: END attends to the sign's word and writes +1 (left) or -1 (right) to up.",
        "m0.n0: silu(4 gate) * up to the answer: the sign, if the door is open.",
        "m0.n1: -silu(-4 gate) * 1 to the answer: right, if the door is closed.",
        "logits: 'left' reads the answer, 'right' its negative.",
    ),
    nodes=("input", "a0.h0", "a0.h1", "m0", "logits"),
    edges=("input->a0.h0<v>", "input->a0.h1<v>", "a0.h0->m0", "a0.h1->m0", "m0->logits"),
    constant_edges=("input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h1<q>", "input->a0.h1<k>"),
    positions={"a0.h0": ("END",), "a0.h1": ("END",), "m0": ("END",)},
    neurons={"m0": (0, 1)},
    decoys={
        "a0.h2": "brings the sky, the door and identities to END, as junk",
        "a1.h0": "reads the answer, the gate and junk, and writes junk",
        "a1.h1": "writes the answer direction, but reads only the empty subspace: its output is always 0",
        "a1.h2": "copies the door and the sign once more, to junk",
        "m1": "gates junk and the sky with the answer and writes junk; two neurons would write the answer, "
        "but multiply with an always empty input",
    },
    spaces=lay_out(_SPACES),
)


def build_planted_gate() -> tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]:
    """Write the weights of ``planted-gate``: 2 layers, 3 heads of 3, 6 SiLU-gated neurons, no norm."""
    tokenizer = build_word_tokenizer("planted-gate", WORDS, N_CTX)
    wiring = Wiring(
        _SPACES,
        vocab_size=len(tokenizer),
        n_ctx=N_CTX,
        n_layers=2,
        n_heads=3,
        d_head=3,
        d_mlp=6,
        gated_mlp=True,
        act="silu",
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _embed(wiring, tokenizer.get_vocab())
    _plant(wiring)
    _add_decoys(wiring)
    return wiring.model, tokenizer, CIRCUIT


def _embed(wiring: Wiring, vocabulary: dict[str, int]) -> None:
    codes = DecoyWeights(seed=5)
    for token in sorted(vocabulary.values()):
        wiring.embed(token, identity=codes.vector(2).tolist())
    for word, sign in (("open", 1.0), ("closed", -1.0)):
        wiring.embed(vocabulary[word], is_door_word=1.0, door=sign)
    for word, sign in (("left", 1.0), ("right", -1.0)):
        wiring.embed(vocabulary[word], is_sign_word=1.0, sign=sign)
        wiring.unembed(vocabulary[word], answer=sign)
    for word, sign in (("blue", 1.0), ("grey", -1.0)):
        wiring.embed(vocabulary[word], sky=sign)
    wiring.place("one", torch.ones(N_CTX, 1))


def _plant(wiring: Wiring) -> None:
    one, unit = torch.ones(1, 1), torch.ones(1)
    look = {"one": _HARD * one}
    wiring.head(0, 0, q=look, k={"is_door_word": one}, v={"door": one}, o={"gate": one})
    wiring.head(0, 1, q=look, k={"is_sign_word": one}, v={"sign": one}, o={"up": one})
    wiring.neuron(0, 0, gate={"gate": _GATE * unit}, reads={"up": unit}, writes={"answer": unit})
    wiring.neuron(0, 1, gate={"gate": -_GATE * unit}, reads={}, bias=1.0, writes={"answer": -unit})


def _add_decoys(wiring: Wiring) -> None:
    random_weights = DecoyWeights(seed=6)
    matrix, vector = random_weights.matrix, random_weights.vector
    one = torch.ones(1, 1)
    wiring.head(
        0, 2, q={"one": matrix(1, 3), "identity": matrix(2, 3)},
        k={"sky": matrix(1, 3), "identity": matrix(2, 3)},
        v={"sky": matrix(1, 3), "door": matrix(1, 3), "identity": matrix(2, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        1, 0, q={"one": matrix(1, 2), "junk": matrix(2, 2)}, k={"answer": matrix(1, 2), "sign": matrix(1, 2)},
        v={"answer": matrix(1, 2), "gate": matrix(1, 2), "junk": matrix(2, 2)}, o={"junk": matrix(2, 2)},
    )  # fmt: skip
    wiring.head(
        1, 1, q={"identity": matrix(2, 2)}, k={"up": matrix(1, 2), "identity": matrix(2, 2)},
        v={"empty": matrix(1, 2)}, o={"answer": matrix(2, 1)},
    )  # fmt: skip
    wiring.head(
        1, 2, q={"one": _HARD * one}, k={"is_door_word": one, "is_sign_word": one},
        v={"door": matrix(1, 3), "sign": matrix(1, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    for layer, first in ((0, 2), (1, 0)):
        # Layer 0 must not read the answer it is itself writing; layer 1 may.
        source = "sky" if layer == 0 else "answer"
        for index in range(first, 4):
            wiring.neuron(
                layer, index, gate={source: vector(1), "gate": vector(1)},
                reads={"junk": vector(2), "sky": vector(1)}, writes={"junk": vector(2)}, bias=0.5,
            )  # fmt: skip
        for index in (4, 5):
            wiring.neuron(
                layer, index, gate={"gate": vector(1), "identity": vector(2)},
                reads={"empty": vector(1)}, writes={"answer": vector(1)},
            )  # fmt: skip


def make_gate_pairs(n: int, seed: int) -> PromptPairs:
    """Three clauses in random order; door (``gate``) or sign (``up``) changes, and the sky always.

    In ``gate`` the sign says left, in ``up`` the door is open: only there does each decide.
    """
    rng = random.Random(seed)
    pairs = [_make_pair(rng, KINDS[index % len(KINDS)]) for index in range(n)]
    return collect_pairs("planted-gate", seed, pairs, number_words(WORDS))


def _make_pair(rng: random.Random, kind: str) -> WordPair:
    order = rng.sample(["door", "sign", "sky"], 3)
    left = {"door": "open", "sign": "left"}
    right = {"door": "closed", "sign": "left"} if kind == "gate" else {"door": "open", "sign": "right"}
    skies = rng.sample(["blue", "grey"], 2)
    goes_left = rng.random() < 0.5
    first, second = (left, right) if goes_left else (right, left)

    def write(attributes: dict[str, str]) -> tuple[str, ...]:
        clauses = [f"{noun} is {attributes[noun]}" for noun in order]
        return (*" and ".join(clauses).split(), "so")

    return WordPair(
        clean=write({**first, "sky": skies[0]}),
        corrupted=write({**second, "sky": skies[1]}),
        answer="left" if goes_left else "right",
        wrong="right" if goes_left else "left",
        labels={noun.upper(): 3 + 4 * order.index(noun) for noun in ("door", "sign", "sky")},
        info={"kind": kind, **first},
    )


PLANTED_GATE = PlantedModel("planted-gate", build_planted_gate, make_gate_pairs)
