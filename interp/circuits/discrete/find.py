"""Finding heads and edges by codes that only positive prompts show."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.circuits.discrete.activations import HeadOutputs, read_head_outputs
from interp.circuits.discrete.coder import DiscreteCoder, start_coder, train_coder
from interp.circuits.discrete.null import ShuffledScores, score_shuffled, shuffle_labels
from interp.circuits.discrete.sides import Sides, read_sides
from interp.errors import CircuitError
from interp.lenses.prompts import Prompts, Where
from interp.lenses.provenance import describe_run
from interp.models.model import Model
from interp.patching.budget import DEFAULT_BUDGET
from interp.results import CoderFit, DiscreteCircuit
from interp.results.code_counts import count_different

NOTABLE = 0.05
"""Where the smallest family-wise p-value is above this, the result says that no head stands out."""


def find_discrete_circuit(
    model: Model,
    positives: Prompts,
    negatives: Prompts | None = None,
    *,
    at: Where | None = None,
    n_latents: int = 200,
    l1: float = 0.2,
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    centre_heads: bool = True,
    normalise: bool = False,
    holdout: float = 0.5,
    shuffles: int = 1000,
    seed: int = 0,
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> DiscreteCircuit:
    """Rank heads, and edges between heads, by integer codes that only positive prompts show.

    O'Neill and Bui 2024, arXiv 2405.12522. Every head's output (``z W_O``, before a norm that follows the
    attention) is averaged over the positions of a prompt, or over ``at`` (``"END"``, a label, an index). One
    small coder is trained on the outputs of all heads, positive and negative prompts alike; the code of
    a head on a prompt is the latent that fires most. A head scores the number of codes it shows on
    positive prompts and on no negative one, an edge the number of such pairs of codes; ``normalise``
    divides by the number seen on any prompt.

    ``positives`` are prompts on which the behaviour is needed, ``negatives`` as many like them on which it
    is not: the model can answer only the former. Of a task the clean prompts are read, and without
    ``negatives`` its corrupted ones are the negative ones. **Corrupted prompts that need the behaviour as
    well, for another answer (IOI's default, the planted tasks), are no negatives**: both sides then
    come from one distribution, and scores only say how many codes a head has. Take such as
    ``interp.tasks.load("ioi", model, corrupted="abc")``. Token tensors are read as prompts without padding;
    texts and tasks bring their lengths.

    Beyond the paper: the coder is trained on one part of the prompts, and codes of the others
    (``holdout``, their share) are what scores are counted on; those of the training prompts stand beside
    them. ``centre_heads`` takes each head's mean over the training prompts off its outputs, so that latents
    tell prompts apart and not heads; ``False`` is the paper's coder. Outputs are then scaled, all alike, to
    a mean squared length of 1, which is what ``l1`` weighs against. ``shuffles`` of the labels give p-values.

    What it can't show: other codes say that a head's output differs, not that the answer depends on it.
    A head with many codes scores high whatever the labels; :meth:`DiscreteCircuit.evaluate` shows how much
    of an AUROC that is, and p-values take it out.

    Example::

        task = interp.tasks.load("ioi", model, n=128, corrupted="abc")
        found = interp.find_discrete_circuit(model, task)
        found.to_frame().head()

    Raises :class:`CircuitError` for options that have no meaning, for positives and negatives of unequal
    number and for too few of them, and :class:`LensError` for prompts that cannot be read.
    """
    started = time.perf_counter()
    counts = {"n_latents": n_latents, "steps": steps, "batch_size": batch_size, "shuffles": shuffles}
    _check_options(counts, l1, learning_rate, holdout)
    generator = torch.Generator().manual_seed(seed)
    sides = read_sides(model, positives, negatives, holdout, generator)
    both = (sides.positives, sides.negatives)
    outputs = read_head_outputs(model, both, at, memory_budget, progress)
    known, new = _split_to_scale(outputs, sides.held_out, centre_heads)
    coder = start_coder(known.mean_output(), n_latents, generator)

    def draw() -> Tensor:
        return known.rows(torch.randint(known.n_rows, (batch_size,), generator=generator))

    train_coder(coder, draw, l1=l1, steps=steps, learning_rate=learning_rate, progress=progress)
    seen, unseen = _read_codes(coder, known), _read_codes(coder, new)
    codes = torch.empty(outputs.z.shape[:3], dtype=torch.int32)
    codes[~sides.held_out], codes[sides.held_out] = seen.codes, unseen.codes
    null = _score_null(unseen.codes, shuffles, sides.paired, normalise, seed)
    notes = (
        f"negatives: {'the corrupted prompts' if negatives is None else 'prompts of their own'}",
        f"outputs {'averaged over all positions' if at is None else f'at {at}'}"
        f"{', less the mean of each head' if centre_heads else ''}",
        f"coder: {n_latents} latents, l1 {l1:g}, {steps} steps of {batch_size} outputs, seed {seed}",
        *_warnings(sides, null),
    )
    run = describe_run(model, sides.positives, "discrete coder", started, seed=seed, notes=notes)
    return DiscreteCircuit(
        codes=codes,
        positive=sides.positive,
        held_out=sides.held_out,
        n_latents=n_latents,
        normalised=normalise,
        paired=sides.paired,
        p_values=_as_table(null.p_values, codes),
        family_p_values=_as_table(null.family_p_values, codes),
        null_means=_as_table(null.means, codes),
        n_shuffles=shuffles,
        fit=CoderFit(seen.fvu, unseen.fvu, unseen.l0),
        provenance=run,
    )


def _check_options(counts: dict[str, int], l1: float, learning_rate: float, holdout: float) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CircuitError(f"{name} must be a whole number of at least 1; got {value!r}.")
    if not l1 >= 0 or not learning_rate > 0:
        raise CircuitError(
            f"expected l1 of 0 or more and a positive learning_rate; got l1={l1}, learning_rate={learning_rate}."
        )
    if not 0 < holdout < 1:
        raise CircuitError(f"holdout is a share of the prompts between 0 and 1; got {holdout}.")


def _split_to_scale(
    outputs: HeadOutputs, held_out: Tensor, centre_heads: bool
) -> tuple[HeadOutputs, HeadOutputs]:
    """Outputs trained on and others, scaled (and centred) by those trained on.

    Raises :class:`CircuitError` where all outputs are the same.
    """
    if centre_heads:
        outputs = outputs.shifted(outputs.z[~held_out].mean(0))
    known = outputs.select(~held_out)
    scale = known.mean_square(known.mean_output()) ** 0.5
    if scale == 0:
        raise CircuitError(
            "heads put out the same on every prompt that the coder would be trained on, so there is nothing to tell "
            "apart; give different prompts, or more of them."
        )
    return known.scaled(scale), outputs.select(held_out).scaled(scale)


@dataclass(frozen=True)
class _Codes:
    codes: Int[Tensor, "prompt layer head"]
    fvu: float
    l0: float


@torch.no_grad()
def _read_codes(coder: DiscreteCoder, outputs: HeadOutputs) -> _Codes:
    """Codes of every head on every prompt, one head at a time."""
    n_prompts, n_layers, n_heads, _ = outputs.z.shape
    codes = torch.empty(n_prompts, n_layers, n_heads, dtype=torch.int32)
    unexplained, fired = 0.0, 0
    for layer in range(n_layers):
        for head in range(n_heads):
            x = outputs.of_head(layer, head)
            latents = coder.encode(x)
            codes[:, layer, head] = coder.codes(x).cpu()
            unexplained += float((coder.decode(latents) - x).square().sum())
            fired += int((latents > 0).sum())
    n = outputs.n_rows
    around_mean = outputs.mean_square(outputs.mean_output())
    return _Codes(codes, unexplained / n / around_mean if around_mean else float("nan"), fired / n)


def _score_null(
    codes: Int[Tensor, "prompt layer head"], shuffles: int, paired: bool, normalise: bool, seed: int
) -> ShuffledScores:
    flat = codes.flatten(1).numpy()
    null = score_shuffled(flat, shuffle_labels(len(flat) // 2, shuffles, paired, seed))
    return replace(null, means=null.means / count_different(flat)) if normalise else null


def _as_table(values: np.ndarray, codes: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(codes.shape[1:])


def _warnings(sides: Sides, null: ShuffledScores) -> list[str]:
    found = []
    repeated, n = sides.count_repeated(), int(sides.held_out.sum())
    if repeated:
        found.append(f"{repeated} of {n} held-out prompts are also among those trained on")
    smallest = float(null.family_p_values.min())
    if smallest > NOTABLE:
        found.append(
            f"no head tells positive from negative prompts better than shuffled labels do (smallest p {smallest:.2g}, "
            "corrected)"
        )
    return found
