"""A hook point for what enters a module, where a model has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class InputPoint(nn.Module):
    """Stands for the input of a module: hooks on its output see, and may replace, what enters there."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # in a tuple it does not become a part of this one
        self._of = (module,)

    def register_forward_hook(self, hook: Callable[..., Any], **options: Any) -> RemovableHandle:
        """Run ``hook(module, inputs, input)`` before every forward of the module."""

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
            # a node of its own: without a norm before it, the residual stream is this very tensor
            value = args[0].view_as(args[0])
            new = hook(module, args, value)
            return value if new is None else new

        return self._of[0].register_forward_pre_hook(before, **options)
