"""Relation-specific neurons: whether zeroing those that tell a relation from others hurts it alone.

Liu et al. 2025, "On Relation-Specific Neurons in Large Language Models" (arXiv 2502.17355), with the ranking of Suau et
al. 2022: average precision of each neuron's response for prompts of one relation against those of the others. Neurons
are ranked on some prompts and accuracy is measured on the rest; the control zeroes as many random neurons of the
same layers. That a relation suffers does not make its neurons *specific*: compare with what the others lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.coders.ground_truth.seeds import estimate_mean
from interp.errors import SteeringError
from interp.models.capture import capture
from interp.models.model import Model
from interp.results.provenance import Provenance
from interp.results.relation_neurons import RelationNeurons
from interp.steering.extract.detection import average_precision, order_units, separation
from interp.steering.extract.random_neurons import draw_other_neurons
from interp.steering.operations import SetNeurons
from interp.steering.steering import Steering, Step
from interp.tasks.base import PromptPairs
from interp.types import Site


@dataclass(frozen=True, eq=False)
class RelationPrompts:
    """Prompts of one relation, each with its right answers.

    Raises :class:`SteeringError` for no prompts, and tensors that do not agree.
    """

    tokens: Int[Tensor, "prompt pos"]
    answers: Int[Tensor, "prompt k"]
    """Ids of what may come next; shorter rows are filled with ``NO_TOKEN``."""
    attention_mask: Bool[Tensor, "prompt pos"] | None = None

    def __post_init__(self) -> None:
        n = len(self.tokens)
        mask = self.attention_mask
        fits = mask is None or mask.shape == self.tokens.shape
        if n < 1 or self.answers.ndim != 2 or len(self.answers) != n or not fits:
            raise SteeringError(
                f"a relation has at least one prompt, with answers [prompt, k] of each; got tokens "
                f"{list(self.tokens.shape)}, answers {list(self.answers.shape)} and mask "
                f"{None if mask is None else list(mask.shape)}."
            )

    @classmethod
    def of_task(cls, task: PromptPairs) -> RelationPrompts:
        """The clean prompts of a task, with their answers."""
        return cls(task.clean, task.answers, task.attention_mask)

    def select(self, rows: Int[Tensor, " some"]) -> RelationPrompts:
        """Some of the prompts."""
        mask = None if self.attention_mask is None else self.attention_mask[rows]
        return RelationPrompts(self.tokens[rows], self.answers[rows], mask)


def find_relation_neurons(
    model: Model,
    relations: Mapping[str, RelationPrompts | PromptPairs],
    *,
    ks: Sequence[int] = (4, 16, 64),
    draws: int = 5,
    test_share: float = 0.5,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> RelationNeurons:
    """Zero the ``k`` neurons that best tell each relation from the others, and measure accuracy on all.

    A neuron's response is ``mlp_post`` at the last token, where the answer is read; neurons of all layers are
    ranked together, on ``1 - test_share`` of the prompts (:func:`order_units`). They are zeroed at every token.
    Accuracy is the share of the other prompts whose most probable next token is an answer.

    Raises :class:`SteeringError` for fewer than two relations, numbers of neurons that are not there, and too few
    prompts to part.
    """
    from tqdm.auto import tqdm

    counts = _check(model, relations, ks, draws, confidence)
    if batch_size < 1:
        raise SteeringError(f"batch_size is at least 1; got {batch_size}.")
    given = {
        n: r if isinstance(r, RelationPrompts) else RelationPrompts.of_task(r) for n, r in relations.items()
    }
    parts = [_split(name, one, test_share, seed) for name, one in given.items()]
    fitted, judged = [train for train, _ in parts], [test for _, test in parts]
    ranked, precision = _rank(model, fitted, counts[-1], batch_size)
    run = _Run(model, judged, batch_size)
    shape = (len(counts), len(given), len(given))
    accuracy, random = torch.zeros(shape), torch.zeros(*shape, 3)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(total=len(counts) * len(given) * (1 + draws), disable=not progress, desc="zeroed")
    with bar:
        for i, k in enumerate(counts):
            for a in range(len(given)):
                accuracy[i, a] = run.measure(ranked[a, :k])
                bar.update()
                drawn = []
                for _ in range(draws):
                    drawn.append(run.measure(_draw(model, ranked[a, :k], generator)))
                    bar.update()
                random[i, a] = _with_intervals(torch.stack(drawn), confidence)
    return RelationNeurons(
        relations=tuple(given),
        ks=counts,
        base=run.measure(None),
        accuracy=accuracy,
        random=random,
        layer=ranked[..., 0],
        neuron=ranked[..., 1],
        precision=precision,
        n_judged=torch.tensor([len(one.tokens) for one in judged]),
        draws=draws,
        confidence=confidence,
        provenance=Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            task="relations",
            n_prompts=sum(len(one.tokens) for one in given.values()),
            seed=seed,
            metric="accuracy",
            method="neurons zeroed",
        ),
    )


@dataclass(frozen=True, eq=False)
class _Run:
    model: Model
    judged: Sequence[RelationPrompts]
    batch_size: int

    def measure(self, neurons: Int[Tensor, "k index"] | None) -> Float[Tensor, " relation"]:
        """Accuracy on every relation with neurons (layer, number) zeroed."""
        if neurons is None:
            return torch.tensor([self._accuracy(one) for one in self.judged])
        with zero_neurons(self.model, neurons).apply(self.model, strength=1.0):
            return torch.tensor([self._accuracy(one) for one in self.judged])

    def _accuracy(self, prompts: RelationPrompts) -> float:
        right = 0
        for rows in torch.arange(len(prompts.tokens)).split(self.batch_size):
            part = prompts.select(rows)
            with torch.no_grad():
                logits = self.model(part.tokens, part.attention_mask)
            said = logits[torch.arange(len(rows)), _last(part)].argmax(-1).cpu()
            right += int((part.answers == said[:, None]).any(1).sum())
        return right / len(prompts.tokens)


def zero_neurons(model: Model, neurons: Int[Tensor, "k index"]) -> Steering:
    """A steering that sets neurons, given as (layer, number), to 0 at every token."""
    steps = []
    for layer in sorted(set(neurons[:, 0].tolist())):
        chosen = neurons[neurons[:, 0] == layer, 1].sort().values
        steps.append(
            Step(
                Site("mlp_post", layer=layer),
                SetNeurons(chosen, torch.zeros(len(chosen)), model.traits.d_mlp),
            )
        )
    return Steering(tuple(steps), "zeroed neurons")


def _rank(
    model: Model, fitted: Sequence[RelationPrompts], k: int, batch_size: int
) -> tuple[Int[Tensor, "relation k index"], Float[Tensor, "relation k"]]:
    """The best ``k`` neurons of every relation as (layer, number), and their average precision."""
    responses = [_respond(model, one, batch_size) for one in fitted]
    owner = torch.cat([torch.full((len(one),), i) for i, one in enumerate(responses)])
    x = torch.cat(responses)
    chosen, precision = [], []
    for i in range(len(fitted)):
        found = average_precision(x, owner == i)
        order = order_units(found, separation(x, owner == i))[:k]
        d_mlp = model.traits.d_mlp
        chosen.append(torch.stack([order // d_mlp, order % d_mlp], dim=1))
        precision.append(found[order].float())
    return torch.stack(chosen), torch.stack(precision)


def _respond(model: Model, prompts: RelationPrompts, batch_size: int) -> Float[Tensor, "prompt layer_neuron"]:
    """``mlp_post`` of all layers at the last token, layer after layer."""
    found = []
    for rows in torch.arange(len(prompts.tokens)).split(batch_size):
        part = prompts.select(rows)
        with torch.no_grad():
            cache = capture(model, part.tokens, "mlp_post", attention_mask=part.attention_mask, unembed=False)
        value = cache["mlp_post"][:, torch.arange(len(rows)), _last(part)]
        found.append(value.transpose(0, 1).flatten(1).float().cpu())
    return torch.cat(found)


def _last(prompts: RelationPrompts) -> Int[Tensor, " prompt"]:
    """Column of each prompt's last token."""
    n, width = prompts.tokens.shape
    if prompts.attention_mask is None:
        return torch.full((n,), width - 1)
    return width - 1 - prompts.attention_mask.long().flip(1).argmax(1)


def _draw(model: Model, chosen: Int[Tensor, "k index"], generator: torch.Generator) -> Int[Tensor, "k index"]:
    """As many neurons of the same layers that are not chosen."""
    drawn = []
    for layer in sorted(set(chosen[:, 0].tolist())):
        taken = chosen[chosen[:, 0] == layer, 1]
        numbers = draw_other_neurons(taken, model.traits.d_mlp, generator)
        drawn.append(torch.stack([torch.full_like(numbers, layer), numbers], dim=1))
    return torch.cat(drawn)


def _with_intervals(
    drawn: Float[Tensor, "draw relation"], confidence: float
) -> Float[Tensor, "relation end"]:
    found = [estimate_mean(column, "t", confidence) for column in drawn.T.tolist()]
    return torch.tensor([[one.value, one.low, one.high] for one in found])


def _split(
    name: str, prompts: RelationPrompts, test_share: float, seed: int
) -> tuple[RelationPrompts, RelationPrompts]:
    n = len(prompts.tokens)
    n_test = round(test_share * n) if 0 < test_share < 1 else 0
    if not 2 <= n_test <= n - 2:
        raise SteeringError(
            f"relation {name!r} has {n} prompts; a share of {test_share} leaves fewer than two on a side. Give more."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return prompts.select(order[n_test:]), prompts.select(order[:n_test])


def _check(
    model: Model, relations: Mapping[str, object], ks: Sequence[int], draws: int, confidence: float
) -> tuple[int, ...]:
    counts = tuple(sorted(set(ks)))
    n = model.traits.n_layers * model.traits.d_mlp
    if len(relations) < 2:
        raise SteeringError(
            f"neurons of a relation are told from others: give at least two; got {len(relations)}."
        )
    if not counts or counts[0] < 1 or counts[-1] > n or draws < 1 or not 0 < confidence < 1:
        raise SteeringError(
            f"ks lie in 1..{n}, draws are at least 1 and confidence lies in (0, 1); got {tuple(ks)}, {draws} and "
            f"{confidence}."
        )
    return counts
