"""Trainings on several processes; run by torchrun: coder_processes.py FOLDER. Every process writes what it got."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from coder_toys import KINDS, Untold, differences, draw_rows, weights_of
from safetensors.torch import save_file

from interp.coders import TrainingInterrupted
from interp.coders.train import train_coders
from interp.results.coder_history import CoderHistory

CONFIGS = {name: KINDS[name] for name in ("topk", "standard", "batch-topk")}
# the buffer holds one batch, so that every batch has the next rows, whoever reads them
OPTIONS: dict[str, Any] = dict(
    batch_size=32,
    buffer_rows=32,
    start_rows=32,
    learning_rate=3e-3,
    log_every=2,
    dead_after=32,
    aux_k=4,
    start="zero",
    normalise="none",
    epochs=2,
    target_l0=5.0,
    sparsity_warmup=0.1,
)
ROWS = 352
"""Whole batches, so that no epoch ends inside one."""


def train(folder: Path | None = None, callbacks: Any = (), **more: Any) -> Any:
    options = {**OPTIONS, **more}
    return train_coders(
        CONFIGS, draw_rows(n=ROWS), checkpoint=folder, callbacks=callbacks, progress=False, **options
    )


class SignalAt:
    """A callback that sends this process a signal at a point."""

    def __init__(self, number: signal.Signals, point: int) -> None:
        self.number, self.left = number, point

    def __call__(self, history: CoderHistory) -> None:
        self.left -= 1
        if not self.left:
            signal.raise_signal(self.number)


def main(root: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    found = train(root / "whole")
    assert not dist.is_initialized()
    told: dict[str, Any] = {"tokens": found["topk"].metadata["tokens"], "dead": {}}
    for name, coder in found.items():
        assert coder.history is not None
        told["dead"][name] = coder.history.curve("dead_frac").tolist()
        told.setdefault("l0", {})[name] = coder.history.curve("l0").tolist()
    # an odd number: the first process has one row more
    odd = train_coders(CONFIGS, Untold(draw_rows(n=351)), progress=False, **{**OPTIONS, "epochs": 1})
    told["odd"] = odd["topk"].metadata["tokens"]
    again = train(root / "whole")
    told["again"] = differences(found, again)
    # a group of one's own is used and left, and a signal to one process stops all
    dist.init_process_group("gloo")
    try:
        train(root / "pieces", [SignalAt(signal.SIGINT, 3)])
    except TrainingInterrupted as error:
        told["stopped"] = error.coders["topk"].metadata["steps"]
    assert dist.is_initialized()
    resumed = train(root / "pieces")
    told["resumed"] = all(
        torch.equal(value, weights_of(resumed[name])[key])
        for name, coder in found.items()
        for key, value in weights_of(coder).items()
    )
    dist.destroy_process_group()
    weights = {f"{name}/{k}": v for name, c in found.items() for k, v in weights_of(c).items()}
    save_file(weights, str(root / f"weights-{rank}.safetensors"))
    (root / f"told-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
