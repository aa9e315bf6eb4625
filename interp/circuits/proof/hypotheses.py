"""Hypothesis tests of a circuit, after Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in LLMs".

Three idealised tests (arXiv 2410.13032) have null hypotheses that an ideal circuit meets: rejecting
one is evidence *against* the circuit. Two flexible ones compare with random circuits, and there
rejecting is evidence *for* it. ``s(C)`` is the metric of one prompt with circuit ``C`` run, ``M`` the model.
Each test has its own level; five of them at 5 % reject something of an ideal circuit more often than that.

Their published code takes the mean difference for the share of prompts in the equivalence test, one kernel
width from both samples together in the independence test, and leaves the correction of the minimality test
open. Here the share is counted, each sample has its own width, p-values of permutations count what was seen
among them, and the correction is made.
"""

from __future__ import annotations

import numpy as np
import torch

from interp.circuits.proof.nulls import Null, RandomCircuits, check_nulls, read_places
from interp.circuits.proof.scoring import absolute_changes, edges_of, score_circuits
from interp.circuits.proof.statistics import Correction, correct, permute_hsic, rank_p_values, sign_p_value
from interp.circuits.runs import CircuitRuns
from interp.errors import CircuitError
from interp.results import Circuit, HypothesisTest

_TIE = 1e-5
"""Of the gap between the model and everything ablated: smaller differences are rounding."""
THE_CIRCUIT = ("circuit",)


def check_equivalence(
    runs: CircuitRuns, circuit: Circuit, *, epsilon: float = 0.1, alpha: float = 0.05
) -> HypothesisTest:
    """Is the circuit as likely to beat the model as the model to beat it?

    H0: ``|P(s(C) > s(M)) - 1/2| <= epsilon`` over prompts. Statistic: the distance from 1/2 of the share of
    prompts on which the circuit's metric is larger (equal ones, up to rounding, count half). p-value: that of a
    binomial with ``1/2 + epsilon``, exact at the edge of H0. Rejecting means that circuit and model are told
    apart, one of them being better on most prompts. It does not look at *how much* better, so a circuit with a
    faithfulness of 0.99 is rejected where it is always a little below. No correction: one hypothesis.

    Raises :class:`CircuitError` for a tolerance outside [0, 0.5) or a level outside (0, 1).
    """
    if not 0 <= epsilon < 0.5:
        raise CircuitError(f"epsilon is a distance from a share of 1/2, from 0 to below 0.5; got {epsilon}.")
    full, empty = runs.full.cpu().double(), runs.empty.cpu().double()
    scored = score_circuits(runs, [edges_of(runs, circuit)])[0]
    tie = _TIE * float((full.mean() - empty.mean()).abs())
    share, p = sign_p_value((scored - full).numpy(), epsilon, tie)
    return _test(
        runs,
        "equivalence",
        f"circuit and model are equally likely to outperform each other (within {epsilon:g})",
        "share of prompts where the circuit is ahead",
        [share],
        [p],
        [0.5 - epsilon, 0.5 + epsilon],
        alpha,
        len(full),
    )


def check_independence(
    runs: CircuitRuns, circuit: Circuit, *, n_permutations: int = 1000, alpha: float = 0.05, seed: int = 0
) -> HypothesisTest:
    """Does the model with the circuit knocked out still follow what the model does?

    H0: ``s(M without C)`` and ``s(M)`` are independent over prompts. Statistic: HSIC with Gaussian kernels of the
    median width (Gretton et al. 2007). p-value: the share of ``n_permutations`` pairings of the prompts, the true
    one counted, whose HSIC is as large. Rejecting means that what remains still carries something of the
    task, or that some prompts are easy for any part of the model: H0 is strict. No correction: one hypothesis.

    Raises :class:`CircuitError` for fewer than 4 prompts, for no permutation or a level outside (0, 1).
    """
    full = runs.full.cpu().double()
    if len(full) < 4 or n_permutations < 1:
        raise CircuitError(
            f"the independence test needs 4 prompts or more and a permutation; got {len(full)} prompts and "
            f"{n_permutations} permutations."
        )
    rest = score_circuits(runs, [~edges_of(runs, circuit)])[0]
    seen, permuted, p = permute_hsic(full.numpy(), rest.numpy(), n_permutations, np.random.default_rng(seed))
    return _test(
        runs,
        "independence",
        "the model with the circuit knocked out is independent of the model",
        "HSIC of model and knocked-out model",
        [seen],
        [p],
        permuted,
        alpha,
        len(full),
    )


def check_minimality(
    runs: CircuitRuns,
    circuit: Circuit,
    *,
    quantile: float = 0.9,
    n_random: int = 100,
    correction: Correction = "holm",
    alpha: float = 0.05,
    seed: int = 0,
) -> HypothesisTest:
    """Does every edge of the circuit do more than an edge that was added to it at random?

    The effect of an edge is the absolute change of the metric when it is taken out, averaged over prompts. It is
    compared with random edges of inflated circuits: the circuit and a random way from the input to the logits, of
    which one of the new edges is taken out. H0, for every edge: its effect is larger than that of such an edge
    with a probability of at least ``quantile``. Statistic: over how many of ``n_random`` of them it is;
    p-value binomial, then corrected for the number of edges. Rejecting means that an edge is not needed: it
    does no more than random ones. (The authors' code takes the squared change; only the order counts.)

    Raises :class:`CircuitError` for a circuit without edges or with all of them, and for options out of range.
    """
    _check_draws(n_random, quantile)
    included = edges_of(runs, circuit)
    if not included.any():
        raise CircuitError("the circuit has no edges, so the minimality test has nothing to test.")
    graph = runs.graph
    source = RandomCircuits(graph, np.random.default_rng([seed, 3]), read_places(graph, included))
    pairs: list[np.ndarray] = []
    for _ in range(n_random):
        way, new = source.new_way(included)
        inflated = included.copy()
        inflated[way] = True
        knocked = inflated.copy()
        knocked[new[int(source.rng.integers(len(new)))]] = False
        pairs += [inflated, knocked]
    without = []
    for edge in circuit.edge_numbers:
        less = included.copy()
        less[edge] = False
        without.append(less)
    scored = score_circuits(runs, [included, *without, *pairs])
    effects = absolute_changes(scored[1 : len(without) + 1], scored[0]).numpy()
    drawn = scored[len(without) + 1 :].view(n_random, 2, -1)
    reference = absolute_changes(drawn[:, 0], drawn[:, 1]).numpy()
    p_values = correct(rank_p_values(effects, reference, quantile, "less"), correction)
    return _test(
        runs,
        "minimality",
        f"every edge does more than {quantile:.0%} of edges added at random",
        "mean |change of the metric| without the edge",
        effects,
        p_values,
        reference,
        alpha,
        n_random,
        circuit.edges,
        correction,
    )


def check_sufficiency(
    runs: CircuitRuns,
    circuit: Circuit,
    *,
    quantile: float = 0.9,
    null: Null = "connected",
    n_random: int = 100,
    alpha: float = 0.05,
    seed: int = 0,
) -> HypothesisTest:
    """Is the circuit closer to the model than random circuits of as many edges?

    The loss of a circuit is ``|s(C) - s(M)|``, averaged over prompts. H0: the circuit's is smaller than that of a
    random circuit with a probability of at most ``quantile``. Statistic: over how many of ``n_random`` of them
    it is closer; p-value binomial. Rejecting speaks for the circuit. No correction: one hypothesis.

    Raises :class:`CircuitError` for a quantile outside (0, 1), an unknown kind of random circuit, and for so few
    draws that nothing could be rejected: with ``quantile=0.9`` and a level of 5 % it takes 29.
    """
    _check_power(n_random, quantile, alpha)
    loss, losses = _against_random(runs, circuit, null, n_random, quantile, seed, knock_out=False)
    return _test(
        runs,
        "sufficiency",
        f"the circuit is closer to the model than at most {quantile:.0%} of random circuits ({null})",
        "mean |distance from the model|",
        loss,
        rank_p_values(-loss, -losses, quantile, "greater"),
        losses,
        alpha,
        n_random,
    )


def check_partial_necessity(
    runs: CircuitRuns,
    circuit: Circuit,
    *,
    quantile: float = 0.9,
    null: Null = "connected",
    n_random: int = 100,
    alpha: float = 0.05,
    seed: int = 0,
) -> HypothesisTest:
    """Does the model lose more without the circuit than without random circuits of as many edges?

    As :func:`check_sufficiency`, with ``|s(M without C) - s(M)|``. H0: it is larger for the circuit than for a
    random circuit with a probability of at most ``quantile``. Rejecting speaks for the circuit.
    """
    _check_power(n_random, quantile, alpha)
    damage, damages = _against_random(runs, circuit, null, n_random, quantile, seed, knock_out=True)
    return _test(
        runs,
        "partial necessity",
        f"knocking out the circuit does more damage than at most {quantile:.0%} of random circuits ({null})",
        "mean |change of the model| without it",
        damage,
        rank_p_values(damage, damages, quantile, "greater"),
        damages,
        alpha,
        n_random,
    )


def _against_random(
    runs: CircuitRuns,
    circuit: Circuit,
    null: Null,
    n_random: int,
    quantile: float,
    seed: int,
    *,
    knock_out: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Distance from the model of the circuit [1] and of random ones [draw], or with them knocked out."""
    check_nulls((null,))
    included = edges_of(runs, circuit)
    rng = np.random.default_rng([seed, 2, int(knock_out)])
    source = RandomCircuits(runs.graph, rng, read_places(runs.graph, included))
    circuits = [included, *(source.draw(null, included) for _ in range(n_random))]
    scored = score_circuits(runs, [~one for one in circuits] if knock_out else circuits)
    distances = absolute_changes(scored, runs.full.cpu().double()).numpy()
    return distances[:1], distances[1:]


def _check_power(n_random: int, quantile: float, alpha: float) -> None:
    """Raise :class:`CircuitError` where even beating every draw would not reject."""
    _check_draws(n_random, quantile)
    if 0 < alpha < 1 and quantile**n_random > alpha:
        needed = int(np.ceil(np.log(alpha) / np.log(quantile)))
        raise CircuitError(
            f"with {n_random} random circuits nothing can be shown at level {alpha:g} and quantile {quantile:g}; draw "
            f"n_random={needed} or more."
        )


def _check_draws(n_random: int, quantile: float) -> None:
    if n_random < 1 or not 0 < quantile < 1:
        raise CircuitError(
            "n_random is a number of random circuits, 1 or more, and quantile lies between 0 and 1; got "
            f"n_random={n_random} and quantile={quantile}."
        )


def _test(
    runs: CircuitRuns,
    name: str,
    null: str,
    statistic: str,
    observed: np.ndarray | list[float],
    p_values: np.ndarray | list[float],
    reference: np.ndarray | list[float],
    alpha: float,
    n: int,
    items: tuple[str, ...] = THE_CIRCUIT,
    correction: Correction = "none",
) -> HypothesisTest:
    if not 0 < alpha < 1:
        raise CircuitError(f"alpha, the level of a test, lies between 0 and 1; got {alpha}.")
    seen, p, against = (
        torch.as_tensor(np.asarray(x, dtype=np.float64)) for x in (observed, p_values, reference)
    )
    return HypothesisTest(
        name=name,
        null=null,
        statistic=statistic,
        items=items,
        observed=seen,
        p_values=p,
        reference=against,
        alpha=alpha,
        n=n,
        correction=correction,
        provenance=runs.provenance(f"{name} test"),
    )
