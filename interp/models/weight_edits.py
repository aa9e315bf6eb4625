"""Editing weights: new values drafted through this package's shapes, put into a model for a while, and taken out.

Values are written into a model's own parameters and written back bit for bit; a bias that a model lacks becomes a
parameter of its own, and a tied unembedding is untied, as long as they are in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.families.base import named_parameters
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class WeightEdits:
    """New values of parameters, by their names in the model's own checkpoint."""

    values: Mapping[str, Tensor]
    """Of parameters that there are."""
    added: Mapping[str, Tensor]
    """Of parameters that the model lacks: a bias, or an unembedding that was tied to the embedding."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter that is changed or added."""
        return (*self.values, *self.added)


class WeightDraft:
    """New values in the making: views of them in the shapes of ``model.weights``, to be changed in place.

    The model itself is not touched. ``untie`` gives a tied unembedding values of its own (those it has), so that
    the embedding can be changed without it.
    """

    def __init__(self, model: Model, untie: bool = False) -> None:
        self._parameters: dict[int, tuple[str, Tensor]] = {}
        for name, parameter in model.named_weights().items():
            key = parameter.untyped_storage().data_ptr()
            # of the names of one parameter the longest is the checkpoint's; parts of a fused map share its storage
            known = self._parameters.get(key)
            whole = known is None or parameter.numel() >= known[1].numel()
            if known is None or (whole and (len(name), name) > (len(known[0]), known[0])):
                self._parameters[key] = (name, parameter)
        self._values: dict[str, Tensor] = {}
        self._added: dict[str, Tensor] = {}
        self._home: str | None = None
        if untie and model.traits.tied_embeddings:
            self._home = "unembed.W_U" if model.family.name == "plain" else "lm_head.weight"
            table = model.weights.W_U.detach()
            self._added[self._home] = (table if self._home == "unembed.W_U" else table.T).clone().contiguous()

    @property
    def unembedding(self) -> Float[Tensor, "d_model d_vocab"] | None:
        """The unembedding that was untied, to be changed; ``None`` where it was not."""
        if self._home is None:
            return None
        own = self._added[self._home]
        return own if self._home == "unembed.W_U" else own.T

    def of(self, weight: Tensor) -> Tensor:
        """The new value of a weight of ``model.weights``, as a view of the same shape."""
        name, parameter = self._owner(weight)
        if name not in self._values:
            self._values[name] = parameter.detach().clone()
        offset = weight.storage_offset() - parameter.storage_offset()
        return self._values[name].as_strided(weight.shape, weight.stride(), offset)

    def name_of(self, weight: Tensor) -> str:
        """The checkpoint's name of the parameter that a weight of ``model.weights`` is a view on."""
        return self._owner(weight)[0]

    def bias_beside(self, weight: Tensor, like: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """The bias of a map that has none: zeros like ``like``, added to the model beside its ``weight``."""
        name = self.name_of(weight)
        path, _, last = name.rpartition(".")
        bias = f"{path}.{'bias' if last == 'weight' else last.replace('W_', 'b_', 1)}"
        if bias not in self._added:
            self._added[bias] = torch.zeros_like(like)
        return self._added[bias]

    def finish(self) -> WeightEdits:
        """What was changed."""
        return WeightEdits(dict(self._values), dict(self._added))

    def _owner(self, weight: Tensor) -> tuple[str, Tensor]:
        found = self._parameters.get(weight.untyped_storage().data_ptr())
        if found is None:
            raise ModelError(
                "this weight is no view on a parameter of the model; take it from model.weights."
            )
        return found


@contextmanager
def hold_edits(model: Model, edits: WeightEdits) -> Iterator[None]:
    """Put edits into the model inside the block, and the old values back after it, bit for bit.

    Raises :class:`ModelError` for parameters that the model does not have, or of other shapes.
    """
    parameters = model.named_weights()
    for name, value in edits.values.items():
        if name not in parameters or parameters[name].shape != value.shape:
            got = list(parameters[name].shape) if name in parameters else "no such parameter"
            raise ModelError(f"the edit of {name} is of shape {list(value.shape)}; {model.name!r} has {got}.")
    homes = {name: _find_home(model, name) for name in edits.added}
    before = {name: parameters[name].detach().clone() for name in edits.values}
    absent = {name: module._parameters[last] for name, (module, last) in homes.items()}
    mapping = model._parameters
    try:
        with torch.no_grad():
            for name, value in edits.values.items():
                parameters[name].copy_(value)
        for name, (module, last) in homes.items():
            module._parameters[last] = nn.Parameter(edits.added[name].to(model.device, model.dtype).clone())
        model._parameters = named_parameters(model.module)
        yield
    finally:
        for name, (module, last) in homes.items():
            module._parameters[last] = absent[name]
        model._parameters = mapping
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)


def _find_home(model: Model, name: str) -> tuple[nn.Module, str]:
    """The module that a parameter belongs to, past any wrapping, and its name there."""
    path, _, last = name.rpartition(".")
    for module_name, module in model.module.named_modules(remove_duplicate=False):
        plain = module_name.replace("_original_component.", "").removesuffix("._original_component")
        if plain == path and last in module._parameters:
            return module, last
    raise ModelError(f"{model.name!r} has no place for a parameter {name}.")
