"""Several processes, each with its share of every batch (``torchrun``): gloo on CPU, nccl on GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from interp.errors import CoderError


@dataclass(frozen=True)
class Processes:
    """The processes of a training; one alone needs no communication."""

    rank: int = 0
    n: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Make every gradient its mean over processes; one message for all."""
        if self.n == 1:
            return
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat.div_(self.n)
        parts = flat.split([grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))

    def average_buffers(self, module: nn.Module) -> None:
        """Make every buffer its mean over processes."""
        if self.n == 1:
            return
        for buffer in module.buffers():
            dist.all_reduce(buffer)
            buffer.div_(self.n)

    def share_weights(self, module: nn.Module) -> None:
        """Give all processes the first one's weights."""
        if self.n == 1:
            return
        for value in module.state_dict().values():
            dist.broadcast(value, 0)

    def from_first(self, numbers: Sequence[float]) -> list[float]:
        """The first process' numbers."""
        if self.n == 1:
            return list(numbers)
        sent = torch.tensor(list(numbers), dtype=torch.float64, device=_device())
        dist.broadcast(sent, 0)
        return [float(value) for value in sent]

    def add_up(self, counts: Tensor) -> Tensor:
        """Sum over processes."""
        if self.n == 1:
            return counts
        sent = counts.to(_device())
        dist.all_reduce(sent)
        return sent.to(counts.device)

    def all_say(self, yes: bool) -> bool:
        """Whether every process says yes."""
        return int(self.add_up(torch.tensor([int(yes)]))[0]) == self.n

    def any_says(self, yes: bool) -> bool:
        """Whether some process says yes."""
        return int(self.add_up(torch.tensor([int(yes)]))[0]) > 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.n > 1:
            dist.barrier()


def join_processes() -> Processes:
    """The processes that ``torchrun`` started, or this one alone.

    The first call in a process started by ``torchrun`` makes the process group.
    Raises :class:`CoderError` if torch was built without communication between processes.
    """
    n = int(os.environ.get("WORLD_SIZE", "1"))
    if n == 1:
        return Processes()
    if not dist.is_available():
        raise CoderError("this torch cannot talk between processes; train in one, without torchrun.")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size())


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
