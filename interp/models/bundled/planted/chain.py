"""``planted-chain``: three MLPs in a row, AND then OR then XOR.

``<bos> key fits guard sleeps window shut told true so`` -> ``in``: one gets in if the key fits *and* the
guard sleeps, *or* if the window is open; a lie turns the answer round. Every MLP needs the one before,
and a head of its own.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from interp.models.bundled.planted.gates import GateKind, wire_gate
from interp.models.bundled.planted.pairs import WordPair, collect_pairs
from interp.models.bundled.planted.record import PlantedCircuit, PlantedModel
from interp.models.bundled.planted.tokenizer import build_word_tokenizer, number_words
from interp.models.bundled.planted.wiring import DecoyWeights, Wiring, lay_out
from interp.models.plain import PlainTransformer
from interp.tasks.base import PromptPairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FACTS = {
    "key": ("fits", "sticks"),
    "guard": ("sleeps", "wakes"),
    "window": ("open", "shut"),
    "told": ("true", "false"),
}
"""What is told of each, +1 and -1."""
WORDS = (*FACTS, *(word for words in FACTS.values() for word in words), "so", "in", "out")
N_CTX = 12

_SPACES = {
    "one": 1,  # 1 at every position
    **{f"is_{noun}_word": 1 for noun in FACTS},
    **dict.fromkeys(FACTS, 1),  # of the token itself
    "identity": 2,  # arbitrary code of every token; only decoys read it
    **{f"{noun}_here": 1 for noun in FACTS},  # brought to END by attention
    "unlocked": 1,  # key and guard
    "way_in": 1,  # unlocked or window
    "answer": 1,  # in is positive, out negative
    "junk": 2,  # written by decoys, never read towards the answer
    "empty": 1,  # never written
}
_HARD = 20.0
_LOGIT = 4.0
_GATES: tuple[tuple[int, GateKind, tuple[str, str], str], ...] = (
    (0, "and", ("key_here", "guard_here"), "unlocked"),
    (1, "or", ("unlocked", "window_here"), "way_in"),
    (2, "xor", ("way_in", "told_here"), "answer"),
)
_HEADS = {"key": (0, 0), "guard": (0, 1), "window": (0, 2), "told": (1, 0)}

CIRCUIT = PlantedCircuit(
    name="planted-chain",
    summary="A chain of three MLPs, AND then OR then XOR, each fed by the one before and a head of its own.",
    mechanism=(
        "a0.h0: END attends to what the key does and writes +1 (fits) or -1 (sticks) to key_here.",
        "a0.h1, a0.h2: likewise the guard (sleeps, wakes) and the window (open, shut).",
        "m0: three ReLU neurons write the smaller of key_here and guard_here to unlocked (AND).",
        "a1.h0: END attends to what was told and writes +1 (true) or -1 (false) to told_here.",
        "m1: three ReLU neurons write the larger of unlocked and window_here to way_in (OR).",
        "m2: four ReLU neurons write way_in times told_here to the answer (XOR, up to the sign).",
        "logits: 'in' reads 4 times the answer, 'out' its negative.",
    ),
    nodes=("input", "a0.h0", "a0.h1", "a0.h2", "m0", "a1.h0", "m1", "m2", "logits"),
    edges=(
        "input->a0.h0<v>",
        "input->a0.h1<v>",
        "input->a0.h2<v>",
        "a0.h0->m0",
        "a0.h1->m0",
        "input->a1.h0<v>",
        "a0.h2->m1",
        "m0->m1",
        "a1.h0->m2",
        "m1->m2",
        "m2->logits",
    ),
    constant_edges=tuple(
        f"input->{head}<{part}>" for head in ("a0.h0", "a0.h1", "a0.h2", "a1.h0") for part in "qk"
    ),
    positions=dict.fromkeys(("a0.h0", "a0.h1", "a0.h2", "m0", "a1.h0", "m1", "m2"), ("END",)),
    neurons={"m0": (0, 1, 2), "m1": (0, 1, 2), "m2": (0, 1, 2, 3)},
    decoys={
        "a1.h1": "attends to the key and copies it to junk, with what was unlocked",
        "a1.h2": "attends by content and copies token identities to junk",
        "a2.h0": "attends to what was told, as a1.h0 does, and writes junk",
        "a2.h1": "writes the answer direction, but reads only the empty subspace: its output is always 0",
        "a2.h2": "reads the way in, the unlocked lock and junk, and writes junk",
    },
    spaces=lay_out(_SPACES),
)


def build_planted_chain() -> tuple[PlainTransformer, PreTrainedTokenizerFast, PlantedCircuit]:
    """Write the weights of ``planted-chain``: 3 layers, 3 heads of 3, 8 ReLU neurons a layer, no norm."""
    tokenizer = build_word_tokenizer("planted-chain", WORDS, N_CTX)
    wiring = Wiring(
        _SPACES,
        vocab_size=len(tokenizer),
        n_ctx=N_CTX,
        n_layers=3,
        n_heads=3,
        d_head=3,
        d_mlp=8,
        act="relu",
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _embed(wiring, tokenizer.get_vocab())
    one = torch.ones(1, 1)
    for noun, (layer, head) in _HEADS.items():
        wiring.head(
            layer,
            head,
            q={"one": _HARD * one},
            k={f"is_{noun}_word": one},
            v={noun: one},
            o={f"{noun}_here": one},
        )
    for layer, kind, sources, target in _GATES:
        wire_gate(wiring, layer, 0, kind, sources, target)
    _add_decoys(wiring)
    return wiring.model, tokenizer, CIRCUIT


def _embed(wiring: Wiring, vocabulary: dict[str, int]) -> None:
    codes = DecoyWeights(seed=9)
    for token in sorted(vocabulary.values()):
        wiring.embed(token, identity=codes.vector(2).tolist())
    for noun, words in FACTS.items():
        for word, sign in zip(words, (1.0, -1.0), strict=True):
            wiring.embed(vocabulary[word], **{f"is_{noun}_word": 1.0, noun: sign})
    for word, sign in (("in", _LOGIT), ("out", -_LOGIT)):
        wiring.unembed(vocabulary[word], answer=sign)
    wiring.place("one", torch.ones(N_CTX, 1))


def _add_decoys(wiring: Wiring) -> None:
    random_weights = DecoyWeights(seed=10)
    matrix, vector = random_weights.matrix, random_weights.vector
    one = torch.ones(1, 1)
    wiring.head(
        1, 1, q={"one": _HARD * one}, k={"is_key_word": one},
        v={"key": matrix(1, 3), "unlocked": matrix(1, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        1, 2, q={"one": matrix(1, 3), "identity": matrix(2, 3)},
        k={"window": matrix(1, 3), "identity": matrix(2, 3)}, v={"identity": matrix(2, 3)},
        o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        2, 0, q={"one": _HARD * one}, k={"is_told_word": one},
        v={"told": matrix(1, 3), "window": matrix(1, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    wiring.head(
        2, 1, q={"way_in": matrix(1, 2)}, k={"told": matrix(1, 2), "identity": matrix(2, 2)},
        v={"empty": matrix(1, 2)}, o={"answer": matrix(2, 1)},
    )  # fmt: skip
    wiring.head(
        2, 2, q={"one": matrix(1, 3), "told_here": matrix(1, 3)}, k={"one": matrix(1, 3)},
        v={"way_in": matrix(1, 3), "unlocked": matrix(1, 3), "junk": matrix(2, 3)}, o={"junk": matrix(3, 2)},
    )  # fmt: skip
    # no layer reads what its own gate is writing
    read = (("key_here", "window_here"), ("unlocked", "told_here"), ("unlocked", "way_in"))
    for layer, sources in enumerate(read):
        for index in range(len(CIRCUIT.neurons[f"m{layer}"]), 6):
            reads = {source: vector(1) for source in sources} | {"identity": vector(2), "junk": vector(2)}
            wiring.neuron(layer, index, reads=reads, writes={"junk": vector(2)}, bias=0.25)
        for index in (6, 7):
            wiring.neuron(layer, index, reads={"empty": vector(1)}, writes={"answer": vector(1)}, bias=-0.5)


def make_chain_pairs(n: int, seed: int) -> PromptPairs:
    """Four facts in random order, one of which changes and turns the answer round; kinds in turn."""
    rng = random.Random(seed)
    kinds = list(FACTS)
    pairs = [_make_pair(rng, kinds[index % len(kinds)]) for index in range(n)]
    return collect_pairs("planted-chain", seed, pairs, number_words(WORDS))


def gets_in(facts: dict[str, bool]) -> bool:
    """The answer: ``True`` is ``in``."""
    return ((facts["key"] and facts["guard"]) or facts["window"]) == facts["told"]


def _make_pair(rng: random.Random, kind: str) -> WordPair:
    order = rng.sample(list(FACTS), 4)
    while True:
        clean = {noun: rng.random() < 0.5 for noun in FACTS}
        corrupted = clean | {kind: not clean[kind]}
        if gets_in(clean) != gets_in(corrupted):
            break

    def write(facts: dict[str, bool]) -> tuple[str, ...]:
        return (*(word for noun in order for word in (noun, FACTS[noun][not facts[noun]])), "so")

    answer, wrong = ("in", "out") if gets_in(clean) else ("out", "in")
    return WordPair(
        clean=write(clean),
        corrupted=write(corrupted),
        answer=answer,
        wrong=wrong,
        labels={noun.upper(): 2 + 2 * order.index(noun) for noun in FACTS},
        info={"kind": kind, **{noun: FACTS[noun][not value] for noun, value in clean.items()}},
    )


PLANTED_CHAIN = PlantedModel("planted-chain", build_planted_chain, make_chain_pairs)
