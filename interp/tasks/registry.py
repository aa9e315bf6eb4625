"""The tasks that come with the package, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any

from interp.errors import TaskError, unknown_name
from interp.tasks.agreement import make_agreement
from interp.tasks.base import PromptPairs
from interp.tasks.coloured_objects import make_coloured_objects
from interp.tasks.docstring import make_docstring
from interp.tasks.greater_than import make_greater_than
from interp.tasks.induction import make_induction
from interp.tasks.ioi import make_ioi
from interp.tasks.metrics import Metric, ProbDiff
from interp.tasks.pairs import EncodedPair, assemble_task
from interp.tasks.pronouns import make_pronouns, make_story_pronouns
from interp.tasks.tokenize import Encoder


@dataclass(frozen=True)
class TaskKind:
    """One task that :func:`load` can make."""

    make: Callable[..., list[EncodedPair]]
    """``make(encoder, n, rng, **options)``; its docstring says what the labels and options mean."""
    summary: str
    metric: type[Metric] | None = None
    """``None`` is the logit difference."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Options and their defaults."""
        given = inspect.signature(self.make).parameters.values()
        return {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}


TASKS: Mapping[str, TaskKind] = MappingProxyType(
    {
        "ioi": TaskKind(make_ioi, "Indirect object: '... John gave a drink to' -> 'Mary' (Wang et al. 2022)"),
        "greater_than": TaskKind(
            make_greater_than, "Later years: 'from 1732 to 17' -> 33 to 99 (Hanna et al. 2023)", ProbDiff
        ),
        "docstring": TaskKind(
            make_docstring, "The next argument in a Python docstring (Heimersheim and Janiak 2023)"
        ),
        "induction": TaskKind(
            make_induction, "Repeated random tokens: '... A B ... A' -> 'B' (Olsson et al. 2022)"
        ),
        "pronouns": TaskKind(
            make_pronouns, "Gendered pronouns: 'After Mary went to the park,' -> 'she' (Mathwin et al. 2023)"
        ),
        "story_pronouns": TaskKind(
            make_story_pronouns, "The same in children's stories: 'a little girl named Lily.' -> 'She'"
        ),
        "agreement": TaskKind(
            make_agreement,
            "Subject-verb agreement across another noun (Linzen et al. 2016; Finlayson et al. 2021)",
        ),
        "coloured_objects": TaskKind(
            make_coloured_objects, "The colour of one of three things (Merullo et al. 2024)"
        ),
    }
)


def available() -> dict[str, str]:
    """What each task asks, by name."""
    return {name: kind.summary for name, kind in TASKS.items()}


def load(
    name: str,
    model: Any,
    n: int = 32,
    seed: int = 0,
    *,
    padding_side: str = "right",
    prepend_bos: bool | None = None,
    **options: Any,
) -> PromptPairs:
    """``n`` different prompt pairs of a task, in the tokens of ``model``.

    ``model`` is a loaded model or a tokenizer. The same arguments give the same prompts everywhere.
    ``options`` are the task's own, such as ``split``, ``template`` or ``corrupted``; see
    ``interp.tasks.TASKS[name].make``. Rows of unequal length are padded on ``padding_side``;
    ``prepend_bos=None`` does as the model does.

    Raises :class:`~interp.errors.TaskError` for an unknown task or option (suggesting the nearest)
    and when there are not ``n`` different prompts; :class:`~interp.errors.TokenizationError` when too
    few of the task's words are single tokens, naming them.
    """
    key = name.strip().lower().replace("-", "_").replace("colored", "coloured")
    if key not in TASKS:
        raise TaskError(unknown_name("task", name, TASKS))
    kind = TASKS[key]
    for option in options:
        if option not in kind.options:
            known = [*kind.options, "padding_side", "prepend_bos"]
            raise TaskError(unknown_name(f"option of task {key!r}", option, known))
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise TaskError(f"a task needs at least one prompt; got n={n!r}.")
    encoder = Encoder(model, prepend_bos)
    pairs = kind.make(encoder, n, Random(f"{key}/{seed}"), **options)
    return assemble_task(
        encoder,
        pairs,
        name=key,
        seed=seed,
        metric=None if kind.metric is None else kind.metric(),
        padding_side=padding_side,
    )
