"""How strongly every head plays a role, by where it looks.

Previous-token, duplicate-token and induction heads on random tokens that repeat (Olsson et al. 2022,
"In-context Learning and Induction Heads"); name movers and S-inhibition heads on a task that names
IO and S2 (Wang et al. 2022, "Interpretability in the Wild"). What it can't show: where a head looks
isn't what it does with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import LensError, unknown_name
from interp.lenses.prompts import PromptBatch, read_prompts
from interp.lenses.provenance import describe_run
from interp.models.capture import capture
from interp.models.model import Model
from interp.results import HeadRole, HeadScores
from interp.tasks.base import PromptPairs
from interp.tasks.registry import load as load_task
from interp.types import Site

UNITS = "mean attention weight"


@dataclass(frozen=True)
class _RepeatRole:
    """Looks from token i of the second copy (or of either) of a sequence to token ``i - back``."""

    definition: str
    back: int
    copies_back: int
    """0: the same copy; 1: the copy before."""


@dataclass(frozen=True)
class _TaskRole:
    """Looks from one labelled token to another."""

    definition: str
    source: str
    dest: str = "END"


REPEAT_ROLES = {
    "previous_token": _RepeatRole(
        "attention from each token but the first to the token just before it, averaged over both copies", 1, 0
    ),
    "duplicate_token": _RepeatRole(
        "attention from each token of the second copy to the same token in the first, averaged", 0, 1
    ),
    "induction": _RepeatRole(
        "attention from each token of the second copy to the token that followed it in the first, averaged",
        -1,
        1,
    ),
}
TASK_ROLES = {
    "name_mover": _TaskRole("attention from END to IO, the name that is the answer, averaged", "IO"),
    "s_inhibition": _TaskRole(
        "attention from END to S2, the second mention of the other name, averaged", "S2"
    ),
}


@torch.no_grad()
def score_heads(
    model: Model,
    *,
    roles: Sequence[str] = tuple(REPEAT_ROLES),
    task: PromptPairs | None = None,
    n: int = 16,
    seq_len: int = 25,
    seed: int = 0,
    batch_size: int = 8,
) -> HeadScores:
    """Score every head at each role: a table [layer, head] of mean attention weights, 0 to 1.

    ``previous_token``, ``duplicate_token`` and ``induction`` are read on ``n`` sequences of ``seq_len``
    different random tokens, each followed by its copy; BOS goes first where the model's prompts
    have it, and is never looked at nor from. No special tokens are drawn. A ``task`` adds
    ``name_mover`` (it needs the label IO) and ``s_inhibition`` (S2), read on its clean prompts.
    The exact definitions are in the record's ``roles``.

    Example::

        interp.score_heads(model, task=ioi).top("induction", k=5)

    Raises :class:`LensError` for an unknown role, a role whose task or label is missing, or
    sequences that do not fit the context, and :class:`TaskError` where the vocabulary is too small.
    """
    started = time.perf_counter()
    chosen = _choose_roles([roles] if isinstance(roles, str) else roles, task)
    tables: dict[str, Tensor] = {}
    notes = []
    repeated = [role for role in chosen if role in REPEAT_ROLES]
    if repeated:
        drawn = _draw_repeated(model, n, seq_len, seed)
        tables |= _score_repeated(model, drawn, repeated, seq_len, batch_size)
        notes.append(
            f"{', '.join(repeated)}: {n} sequences of {seq_len} random tokens, repeated, seed {seed}"
        )
    batch = None
    if task is not None:
        batch = read_prompts(model, task)
        named = [role for role in chosen if role in TASK_ROLES]
        tables |= _score_on_task(model, batch, named, batch_size)
        notes.append(f"{', '.join(named)}: the clean prompts of task {task.name!r}")
    definitions = {role: how.definition for role, how in REPEAT_ROLES.items()}
    definitions |= {role: how.definition for role, how in TASK_ROLES.items()}
    return HeadScores(
        values={role: tables[role] for role in chosen},
        roles={role: HeadRole(definitions[role], UNITS) for role in chosen},
        layers=tuple(range(model.traits.n_layers)),
        provenance=describe_run(model, batch, "head scores", started, seed=seed, notes=notes),
    )


def _choose_roles(roles: Sequence[str], task: PromptPairs | None) -> list[str]:
    """The roles asked for and those that the task brings, none twice."""
    for role in roles:
        if role not in REPEAT_ROLES and role not in TASK_ROLES:
            raise LensError(unknown_name("head role", str(role), [*REPEAT_ROLES, *TASK_ROLES]))
        if role in TASK_ROLES and (task is None or TASK_ROLES[role].source not in task.labels):
            has = "no task was given" if task is None else f"task {task.name!r} labels {sorted(task.labels)}"
            raise LensError(f"head role {role!r} needs a task that labels {TASK_ROLES[role].source}; {has}.")
    brought = [] if task is None else [role for role, how in TASK_ROLES.items() if how.source in task.labels]
    if task is not None and not brought:
        raise LensError(
            f"no head role can be scored on task {task.name!r}, which labels {sorted(task.labels)}; "
            "name_mover needs IO and s_inhibition S2. Leave the task out."
        )
    chosen = list(dict.fromkeys([*roles, *brought]))
    if not chosen:
        raise LensError(f"no head role was asked for; expected some of {', '.join(REPEAT_ROLES)}.")
    return chosen


def _draw_repeated(model: Model, n: int, seq_len: int, seed: int) -> PromptBatch:
    """``n`` random sequences, each followed by itself."""
    total = 2 * seq_len + int(model.prepend_bos)
    if n < 1 or seq_len < 2 or total > model.traits.n_ctx:
        raise LensError(
            f"expected n of at least 1 and seq_len of 2 to {(model.traits.n_ctx - model.prepend_bos) // 2}, for "
            f"two copies must fit the context of {model.traits.n_ctx}; got n={n}, seq_len={seq_len}."
        )
    # "answer" draws one token beside the sequence, so that small vocabularies go a long way
    task = load_task("induction", model, n=n, seed=seed, length=seq_len, corrupted="answer")
    return read_prompts(model, torch.cat([task.clean, task.answers], dim=1))


def _score_repeated(
    model: Model, batch: PromptBatch, roles: Sequence[str], seq_len: int, batch_size: int
) -> dict[str, Float[Tensor, "layer head"]]:
    start = batch.tokens.shape[1] - 2 * seq_len
    spots = {}
    for name in roles:
        role = REPEAT_ROLES[name]
        dest = torch.arange(start + seq_len if role.copies_back else start, start + 2 * seq_len)
        source = dest - role.copies_back * seq_len - role.back
        inside = source >= start
        spots[name] = (dest[inside], source[inside])
    sums = {name: torch.zeros(model.traits.n_layers, model.traits.n_heads) for name in roles}
    for part in batch.split(batch_size):
        pattern = capture(model, part.tokens, "pattern")["pattern"]
        for name, (dest, source) in spots.items():
            sums[name] += pattern[..., dest, source].float().mean(-1).sum(1).cpu()
    return {name: total / len(batch) for name, total in sums.items()}


def _score_on_task(
    model: Model, batch: PromptBatch, roles: Sequence[str], batch_size: int
) -> dict[str, Float[Tensor, "layer head"]]:
    sums = {name: torch.zeros(model.traits.n_layers, model.traits.n_heads) for name in roles}
    for part in batch.split(batch_size):
        pattern = capture(model, part.tokens, Site("pattern"), attention_mask=part.attention_mask)["pattern"]
        rows = torch.arange(len(part))
        for name in roles:
            dest, source = part.one_column(TASK_ROLES[name].dest), part.one_column(TASK_ROLES[name].source)
            # advanced indices around a slice put the rows first
            sums[name] += pattern[:, rows, :, dest, source].float().sum(0).cpu()
    return {name: total / len(batch) for name, total in sums.items()}
