"""Where to steer: one call for all searches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.provenance import Provenance
from interp.results.steering_search import BRUTE_FORCE, SteeringSearch, direction_key
from interp.steering.neutral import NeutralText
from interp.steering.search.candidates import Candidates, Positions, name_positions, read_candidates
from interp.steering.search.choose import make_steering
from interp.steering.search.cost import count_cost
from interp.steering.search.kl_filter import KLFilter
from interp.steering.search.objective import Objective, Rows, read_objective, read_rows
from interp.steering.search.scoring import SEARCHES, Scored, SearchInputs, neutral_text, score_candidates
from interp.types import SiteLike


def search_steering(
    model: Model,
    positive: Prompts,
    negative: Prompts,
    *,
    sites: SiteLike | Iterable[SiteLike] = "resid_post",
    positions: Sequence[Positions] = ("all", -1),
    doses: Sequence[float] = (0.3,),
    method: str = BRUTE_FORCE,
    objective: Objective | str | None = None,
    prompts: Prompts | None = None,
    extraction: str = "mean-difference",
    at: Positions | None = None,
    act_where_read: bool = False,
    neutral: Prompts | NeutralText | None = None,
    n_neutral: int = 32,
    limits: KLFilter | None = None,
    paired: bool | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> SteeringSearch:
    """Score directions of a contrast, read at every site and position, by one of :data:`SEARCHES`.

    ``positions`` are where directions are read: ``"all"`` (the mean over tokens), ``-1``, ``Span(0, 4)``, a tuple
    of several that are averaged. All act at every token, or ``at`` these, or with ``act_where_read`` where each was
    read. ``objective`` is what steering is to raise on ``prompts`` (by default the negative prompts; give others
    to judge on prompts that directions were not extracted from): ``"sentiment=positive"``, a
    :class:`WordOdds`, or a function of (logits, real tokens) to one number a prompt.

    ``"js"`` looks at activations only, ``"gradient"`` predicts effects at a dose to first order from one backward
    pass a batch, ``"kl-filter"`` ablates every candidate and filters (``limits``); ``"brute-force"`` measures every
    candidate at every dose at equal KL on ``neutral`` text. The first and third know no doses: their scores are
    the same at each.

    Example::

        found = search_steering(model, positive, negative, method="gradient", objective="sentiment=positive")
        found.plot()
        with found.steering().apply(model, dose=0.3):
            tokens = model.generate("The baker")

    Raises :class:`SteeringError` for an unknown method, no objective where one is needed, bad doses and sites.
    """
    if method not in SEARCHES:
        raise SteeringError(unknown_name("search", method, SEARCHES))
    wanted = _check_doses(doses)
    begun = time.perf_counter()
    goal = None if method == "js" else read_objective(model, objective)
    if batch_size < 1:
        raise SteeringError(f"batch_size is at least 1; got {batch_size}.")
    p, n = read_sides(model, positive, negative)
    rows = n if prompts is None else read_rows(model, prompts, "judged")
    paired = are_pairs(positive, p, n) if paired is None else paired
    text = None if method == "js" else neutral_text(model, neutral, (p, n), n_neutral, seed)
    with count_cost(model) as cost:
        candidates = read_candidates(
            model, p, n, sites, positions, paired=paired, at=at, act_where_read=act_where_read,
            extraction=extraction, batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip
        inputs = SearchInputs(model, p, n, rows, goal, text, limits or KLFilter(), batch_size, seed)
        scored = score_candidates(method, candidates, wanted, inputs, progress)
    found = _record(method, candidates, scored, wanted)
    return replace(
        found,
        acts_at="read" if act_where_read else None if at is None else name_positions(at),
        extraction=extraction,
        forwards=cost.forwards,
        provenance=_provenance(model, objective, len(rows), method, seed, time.perf_counter() - begun),
        maker=make_steering(model, lambda: text or neutral_text(model, neutral, (p, n), n_neutral, seed)),
    )


def _provenance(
    model: Model, objective: Objective | str | None, n: int, method: str, seed: int, seconds: float
) -> Provenance:
    return Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task=objective if isinstance(objective, str) else "steering search",
        n_prompts=n,
        seed=seed,
        method=method,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=seconds,
    )


def _record(method: str, candidates: Candidates, scored: Scored, doses: tuple[float, ...]) -> SteeringSearch:
    """What is known of candidates and scores."""
    shape = (len(candidates.sites), len(candidates.positions))
    effects = scored.effects
    return SteeringSearch(
        method=method,
        sites=candidates.sites,
        positions=candidates.positions,
        doses=doses,
        scores=scored.scores.reshape(*shape, len(doses)),
        strengths=scored.strengths.reshape(*shape, len(doses)),
        passed=scored.passed.reshape(shape),
        score=SEARCHES[method],
        directions={direction_key(str(c.place), c.read_at): c.direction for c in candidates.every},
        acts_at=None,
        extraction="",
        forwards=0,
        backwards=scored.backwards,
        provenance=Provenance(model=""),
        effects=None if effects is None else effects.reshape(*shape, len(doses), -1),
        figures={name: values.reshape(shape) for name, values in scored.figures.items()},
        data=candidates.data,
        model_digest=candidates.model_digest,
    )


def read_sides(model: Model, positive: Prompts, negative: Prompts) -> tuple[Rows, Rows]:
    """Tokens of both sides' prompts. Raises :class:`SteeringError` for an empty one."""
    return read_rows(model, positive, "positive"), read_rows(model, negative, "negative")


def are_pairs(positive: Prompts, p: Rows, n: Rows) -> bool:
    """Whether sides that say nothing of it count as pairs, as :func:`read_contrast` has it."""
    return isinstance(positive, list | tuple) and len(p) == len(n)


def _check_doses(doses: Sequence[float]) -> tuple[float, ...]:
    found = tuple(float(dose) for dose in doses)
    if not found or not all(0 < dose < float("inf") for dose in found) or len(set(found)) < len(found):
        raise SteeringError(
            f"doses of a search are different numbers above 0, in nats; got {list(found)}. For the other way, "
            "swap positive and negative prompts."
        )
    return found
