"""What a trained bundled model can do on held-out text, as its card reports it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.errors import ModelError
from interp.models.bundled.consistency import measure_consistency
from interp.tasks.attributes import ATTRIBUTE_WORDS
from interp.tasks.sentences import DRAW, Sentence
from interp.tasks.world import BOS, KINDS, SPECIAL_TOKENS, generate_documents, pack_tokens, token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HELDOUT_SEED = 20_000
"""Seed of the held-out documents on the cards."""

MIN_SENTENCES = 20


def evaluate_heldout(model: PreTrainedModel, n: int = 500, seed: int = HELDOUT_SEED) -> dict[str, float]:
    """Held-out figures of a model of the generated world.

    For every kind of sentence that asks for an answer, ``n`` sentences from templates (and IOI name
    pairs) that were never trained on. ``*_accuracy`` is the share of sentences whose answer has a
    higher logit than every wrong answer; ``greater_than_prob_diff`` is the probability of all
    greater years minus that of the others; the accuracies of attributes are those of
    :func:`~interp.models.bundled.consistency.measure_consistency`. ``loss_*`` is the mean loss a
    token, in nats.

    Raises :class:`ModelError` when ``n`` is too small for every figure to have a sentence.
    """
    if n < MIN_SENTENCES:
        raise ModelError(f"held-out figures need at least {MIN_SENTENCES} sentences of a kind; got n={n}.")
    figures: dict[str, float] = {}
    for kind in DRAW:
        sentences = [d.sentences[0] for d in generate_documents(n, seed, "heldout", [kind])]
        logits = predict_answers(model, sentences)
        figures |= _score(kind, sentences, logits)
    consistency = measure_consistency(model, n, seed)
    figures |= {f"{attribute}_accuracy": share for attribute, share in consistency.items()}
    for kind in KINDS:
        figures[f"loss_{kind}"] = measure_loss(model, kind, seed=seed)
    scores, accuracy = measure_induction(model, seed=seed)
    figures["induction_score"] = float(scores.max())
    figures["induction_accuracy"] = accuracy
    return {name: round(value, 4) for name, value in figures.items()}


@torch.no_grad()
def predict_answers(
    model: PreTrainedModel, sentences: Iterable[Sentence]
) -> Float[Tensor, "sentence d_vocab"]:
    """Logits at the last word of each sentence's prompt, with <bos> before it."""
    ids = token_ids()
    groups: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for row, sentence in enumerate(sentences):
        tokens = [ids[BOS], *(ids[word] for word in sentence.prompt)]
        groups[len(tokens)].append((row, tokens))
    found: dict[int, Tensor] = {}
    for group in groups.values():
        logits = model(torch.tensor([tokens for _, tokens in group])).logits[:, -1].float()
        found |= {row: logits[i] for i, (row, _) in enumerate(group)}
    return torch.stack([found[row] for row in sorted(found)])


def _score(
    kind: str, sentences: list[Sentence], logits: Float[Tensor, "sentence d_vocab"]
) -> dict[str, float]:
    if kind == "greater_than":
        return {
            "greater_than_prob_diff": _mean(
                _year_difference(s, row) for s, row in zip(sentences, logits, strict=True)
            )
        }
    margins = [_margin(s, row) for s, row in zip(sentences, logits, strict=True)]
    right = [float(margin > 0) for margin in margins]
    figures = {f"{kind}_accuracy": _mean(right)}
    if kind == "ioi":
        figures["ioi_logit_diff"] = _mean(margins)
    for name, belongs in _SUBSETS.get(kind, {}).items():
        figures[name] = _mean(r for r, s in zip(right, sentences, strict=True) if belongs(s))
    return figures


def _margin(sentence: Sentence, logits: Float[Tensor, "d_vocab"]) -> float:
    """Logit of the answer minus the best wrong one's."""
    ids = token_ids()
    assert sentence.answer is not None
    wrong = logits[[ids[word] for word in sentence.wrong]].max()
    return float(logits[ids[sentence.words[sentence.answer]]] - wrong)


def _year_difference(sentence: Sentence, logits: Float[Tensor, "d_vocab"]) -> float:
    ids = token_ids()
    assert sentence.answer is not None
    probabilities = logits.softmax(-1)
    right = [ids[word] for word in (sentence.words[sentence.answer], *sentence.also_right)]
    return float(probabilities[right].sum() - probabilities[[ids[word] for word in sentence.wrong]].sum())


def _names_io_first(sentence: Sentence) -> bool:
    return sentence.roles.index("IO") < sentence.roles.index("S1")


def _attractor_disagrees(sentence: Sentence) -> bool:
    if "ATTRACTOR" not in sentence.roles:
        return False
    attractor = sentence.words[sentence.roles.index("ATTRACTOR")]
    return attractor not in ATTRIBUTE_WORDS["number"][sentence.attributes["number"]]


_SUBSETS: Mapping[str, Mapping[str, Callable[[Sentence], bool]]] = {
    "ioi": {
        "ioi_abba_accuracy": _names_io_first,
        "ioi_baba_accuracy": lambda sentence: not _names_io_first(sentence),
    },
    "agreement": {"agreement_attractor_accuracy": _attractor_disagrees},
}
"""Figures over a part of a kind's sentences."""


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


@torch.no_grad()
def measure_loss(
    model: PreTrainedModel, kind: str, rows: int = 32, length: int = 64, seed: int = HELDOUT_SEED
) -> float:
    """Mean loss, in nats a token, on ``rows`` rows of held-out documents of one kind."""
    documents = generate_documents(sys.maxsize, seed, "heldout", [kind])
    tokens = torch.tensor(list(islice(pack_tokens(documents, length), rows)), dtype=torch.long)
    logits = model(tokens).logits[:, :-1].float()
    return float(cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


@torch.no_grad()
def measure_induction(
    model: PreTrainedModel, n: int = 64, length: int = 25, seed: int = HELDOUT_SEED
) -> tuple[Float[Tensor, "layer head"], float]:
    """Induction score of every head, and the accuracy of copying, on repeated random words.

    A row is <bos>, ``length`` distinct random words, and the same again. The score is the mean
    attention from a word of the second copy to the word that followed its first occurrence
    (Olsson et al. 2022). The accuracy is the share of the second copy's words, from its second on,
    that have the highest logit of all.
    """
    rng = Random(f"{seed}/induction")
    ids = token_ids()
    words = range(len(SPECIAL_TOKENS), len(ids))
    drawn = [rng.sample(words, length) for _ in range(n)]
    tokens = torch.tensor([[ids[BOS], *row, *row] for row in drawn])
    patterns, logits = capture_patterns(model, tokens)
    destinations = torch.arange(length + 1, 2 * length)
    scores = torch.stack(
        [p[:, :, destinations, destinations - length + 1].mean(dim=(0, 2)) for p in patterns]
    )
    right = logits[:, destinations].argmax(-1) == tokens[:, destinations + 1]
    return scores, float(right.float().mean())


@torch.no_grad()
def capture_patterns(
    model: PreTrainedModel, tokens: Int[Tensor, "batch pos"]
) -> tuple[list[Float[Tensor, "batch head dest_pos src_pos"]], Float[Tensor, "batch pos d_vocab"]]:
    """Attention pattern of every layer and the logits, of an unwrapped GPT-2 or plain model.

    Raises :class:`ModelError` for any other kind of model.
    """
    from transformers import GPT2LMHeadModel

    from interp.models.plain import PlainTransformer

    if isinstance(model, GPT2LMHeadModel):
        kept = model.config._attn_implementation
        model.set_attn_implementation("eager")
        out = model(tokens, output_attentions=True)
        model.set_attn_implementation(kept)
        return list(out.attentions), out.logits
    if isinstance(model, PlainTransformer):
        patterns: list[Tensor] = []
        handles = [
            module.register_forward_hook(lambda module, args, out: patterns.append(out))
            for name, module in model.named_modules()
            if name.endswith("attn.hook_pattern")
        ]
        try:
            logits = model(tokens).logits
        finally:
            for handle in handles:
                handle.remove()
        return patterns, logits
    raise ModelError(f"attention patterns are read of a GPT-2 or plain model; got {type(model).__name__}.")
