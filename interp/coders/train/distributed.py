"""Several processes, each with its share of every batch (``torchrun``): gloo on CPU, nccl on GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from interp.errors import CoderError


@dataclass(frozen=True)
class Processes:
    """The processes of a training; one alone needs no communication."""

    rank: int = 0
    n: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this process trains, and messages are made."""

    @property
    def is_first(self) -> bool:
        """Whether this one writes files, shows progress and calls back."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module, share: float) -> None:
        """Make every gradient its mean over the rows of all processes; one message for all.

        ``share`` is that of this process in the rows. A parameter without a gradient counts as zero.
        """
        if self.n == 1:
            return
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads]).mul_(share)
        dist.all_reduce(flat)
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

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values."""
        if self.n == 1:
            return
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)

    def from_first(self, numbers: Sequence[float]) -> list[float]:
        """The first process' numbers."""
        if self.n == 1:
            return list(numbers)
        sent = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        dist.broadcast(sent, 0)
        return [float(value) for value in sent]

    def add_up(self, counts: Tensor) -> Tensor:
        """Sum over processes."""
        if self.n == 1:
            return counts
        sent = counts.to(self.device, copy=True)
        dist.all_reduce(sent)
        return sent.to(counts.device)

    def count_rows(self, rows: int) -> int:
        """Rows of all processes together; 0 where one of them has none, for then all are at the end."""
        if self.n == 1:
            return rows
        total, ready = self.add_up(torch.tensor([rows, int(rows > 0)])).tolist()
        return int(total) if ready == self.n else 0

    def highest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.n == 1:
            return number
        sent = torch.tensor(number, device=self.device)
        dist.all_reduce(sent, op=dist.ReduceOp.MAX)
        return int(sent)

    def wait(self) -> None:
        """Until all processes are here."""
        self.highest(0)


def _find_device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CoderError(f"device {str(device)!r} cannot be used: {reason}") from error
    return found


@contextmanager
def join_processes(device: torch.device | str = "cpu") -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or this one alone.

    A process group that is there already is used and left; otherwise one is made and destroyed at the end. Under
    ``torchrun`` ``"cuda"`` means the GPU of the process' local rank.
    Raises :class:`CoderError` for a device that is not there, and if torch was built without communication between
    processes.
    """
    place = _find_device(device)
    if place.type == "cuda" and place.index is None and "LOCAL_RANK" in os.environ:
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if dist.is_available() and dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size(), place)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device=place)
        return
    if not dist.is_available():
        raise CoderError("this torch cannot talk between processes; train in one, without torchrun.")
    store, rank, n = next(rendezvous("env://"))
    # a second training must not find the first one's addresses
    number = store.add(f"interp/{rank}", 1)
    dist.init_process_group(
        "nccl" if place.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"interp-{number}", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=n,
        device_id=place if place.type == "cuda" else None,
    )
    try:
        processes = Processes(rank, n, place)
        yield processes
        processes.wait()
    finally:
        dist.destroy_process_group()
