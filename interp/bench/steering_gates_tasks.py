"""Prompts of the gated steering benchmark: those to act on, and those to leave alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from interp.models.model import Model
from interp.steering.conditions import Condition
from interp.steering.conditions.fit import fit_condition
from interp.steering.world import attribute_prompts
from interp.tasks.attributes import ATTRIBUTES

TASKS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "music": MappingProxyType({"topic": "music"}),
        "music and past": MappingProxyType({"topic": "music", "tense": "past"}),
    }
)
"""Name -> the attributes that a prompt to act on has, all of them."""


@dataclass(frozen=True)
class GatePrompts:
    """Prompts of one task and seed; no prompt is drawn for two uses."""

    fit_act: tuple[str, ...]
    fit_leave: tuple[str, ...]
    fit_attributes: Mapping[str, Mapping[str, str]]
    """Topic and tense of every prompt to fit on."""
    calibrate: tuple[str, ...]
    """To leave alone."""
    test_act: tuple[str, ...]
    test_leave: tuple[str, ...]

    def split_fit(self, attribute: str, value: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Prompts to fit on with a value of an attribute, and those with another."""
        every = self.fit_act + self.fit_leave
        has = [self.fit_attributes[text][attribute] == value for text in every]
        yes = tuple(text for text, it_has in zip(every, has, strict=True) if it_has)
        return yes, tuple(text for text, it_has in zip(every, has, strict=True) if not it_has)


def draw_prompts(task: str, n_fit: int, n_calibrate: int, n_test: int, seed: int) -> GatePrompts:
    """Prompts of two sentences, of all topics and tenses alike among those to leave alone.

    There are twice as many to leave alone as to act on.
    """
    cells = list(product(ATTRIBUTES["topic"], ATTRIBUTES["tense"]))
    wanted = TASKS[task]
    acting = [(t, s) for t, s in cells if all({"topic": t, "tense": s}[a] == v for a, v in wanted.items())]
    others = [cell for cell in cells if cell not in acting]
    sizes = {"fit": (n_fit, 2 * n_fit), "calibrate": (0, n_calibrate), "test": (n_test, 2 * n_test)}
    found: dict[str, tuple[str, ...]] = {}
    attributes: dict[str, Mapping[str, str]] = {}
    for number, (use, (n_act, n_leave)) in enumerate(sizes.items()):
        share = max(-(-n_act // len(acting)), -(-n_leave // len(others)))
        texts = {
            (topic, tense): several
            for tense in ATTRIBUTES["tense"]
            for topic, several in attribute_prompts(
                "topic", share, seed=10 * seed + number, held={"tense": tense}
            ).items()
        }
        for side, of, n in (("act", acting, n_act), ("leave", others, n_leave)):
            # one of each cell in turn
            chosen = [(texts[cell][i], cell) for i in range(share) for cell in of][:n]
            found[f"{use}_{side}"] = tuple(text for text, _ in chosen)
            attributes |= {text: {"topic": cell[0], "tense": cell[1]} for text, cell in chosen}
    fitted = {text: attributes[text] for text in found["fit_act"] + found["fit_leave"]}
    return GatePrompts(
        found["fit_act"],
        found["fit_leave"],
        fitted,
        found["calibrate_leave"],
        found["test_act"],
        found["test_leave"],
    )


def fit_task_condition(
    model: Model, yes: Sequence[str], no: Sequence[str], sites: Sequence[str], seed: int
) -> Condition:
    """A condition whose direction and site are fitted; its threshold is to be set."""
    return fit_condition(model, list(yes), list(no), sites, seed=seed).condition
