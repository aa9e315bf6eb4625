"""Activations with labels: what every probe here is fitted and judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import CoderError, unknown_name
from interp.results.provenance import Provenance

NO_LABEL = -1
"""In label arrays: the attribute has no value on this row."""


@dataclass(frozen=True, eq=False)
class AttributeData:
    """Activations and, for each attribute, the number of its value on every row.

    A *target* is a question with two answers, written ``"tense=past"``; rows where the attribute has no
    value are left out of it. Rows of one prompt are never parted between fitting and judging.

    Raises :class:`CoderError` for arrays of unequal length, and labels that name no value.
    """

    activations: Float[Tensor, "row d"]
    labels: Mapping[str, Int[Tensor, " row"]]
    values: Mapping[str, tuple[str, ...]]
    """Names of each attribute's values, in the order of its labels."""
    prompt: Int[Tensor, " row"]
    """Which prompt a row comes from."""
    provenance: Provenance

    def __post_init__(self) -> None:
        n = len(self.activations)
        sizes = {name: len(tensor) for name, tensor in [*self.labels.items(), ("prompt", self.prompt)]}
        if not n or set(sizes.values()) != {n} or not self.labels:
            raise CoderError(f"labels and prompts are one a row, at least one; got {n} rows and {sizes}.")
        if set(self.labels) != set(self.values):
            raise CoderError(
                f"labels are of {sorted(self.labels)}, values of {sorted(self.values)}; give both of each attribute."
            )
        for name, label in self.labels.items():
            low, high = int(label.min()), int(label.max())
            if low < NO_LABEL or high >= len(self.values[name]):
                raise CoderError(
                    f"labels of {name!r} lie in {NO_LABEL}..{len(self.values[name]) - 1}; got {low}..{high}."
                )

    def __len__(self) -> int:
        return len(self.activations)

    @property
    def targets(self) -> tuple[str, ...]:
        """A target for each value of each attribute, those with both answers in the data."""
        every = (f"{name}={value}" for name, values in self.values.items() for value in values)
        return tuple(target for target in every if self._has_both(target))

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The same, with one target for attributes of two values, where the other says nothing more."""
        seen: set[str] = set()
        found = []
        for target in self.targets:
            name = attribute_of(target)
            if len(self.values[name]) > 2 or name not in seen:
                found.append(target)
            seen.add(name)
        return tuple(found)

    def _has_both(self, target: str) -> bool:
        answers = self.positive(target)[self.counted(target)]
        return bool(answers.any()) and not bool(answers.all())

    def positive(self, target: str) -> Bool[Tensor, " row"]:
        """Rows where the attribute has this value. Raises :class:`CoderError` for an unknown target."""
        name, _, value = target.partition("=")
        if value not in self.values.get(name, ()):
            known = [f"{name}={value}" for name, values in self.values.items() for value in values]
            raise CoderError(unknown_name("target", target, known))
        return self.labels[name] == self.values[name].index(value)

    def counted(self, target: str) -> Bool[Tensor, " row"]:
        """Rows where the attribute has any value. Raises :class:`CoderError` for an unknown attribute."""
        name = attribute_of(target)
        if name not in self.labels:
            raise CoderError(unknown_name("attribute", name, self.labels))
        return self.labels[name] != NO_LABEL

    def tables(self, targets: Sequence[str]) -> tuple[Bool[Tensor, "row target"], Bool[Tensor, "row target"]]:
        """Answers to several targets, and where they count."""
        positive = torch.stack([self.positive(target) for target in targets], dim=1)
        return positive, torch.stack([self.counted(target) for target in targets], dim=1)

    def split(self, test_share: float = 0.5, seed: int = 0) -> Bool[Tensor, " row"]:
        """Rows to judge on: all of some prompts, drawn by ``seed``.

        Raises :class:`CoderError` for a share outside (0, 1), and where it leaves a side without prompts.
        """
        if not 0 < test_share < 1:
            raise CoderError(f"test_share lies between 0 and 1; got {test_share}.")
        prompts = self.prompt.unique()
        n_test = round(test_share * len(prompts))
        if not 0 < n_test < len(prompts):
            raise CoderError(
                f"{len(prompts)} prompts cannot be parted with a share of {test_share}; give more prompts."
            )
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
        return torch.isin(self.prompt, prompts[order[:n_test].to(prompts.device)])


def attribute_of(target: str) -> str:
    """The attribute of a target.

    >>> attribute_of("tense=past")
    'tense'
    """
    return target.partition("=")[0]
