"""Trainings in child processes that are stopped by a signal at random moments; writes what came of each as JSON.

Run as a script: python coder_kills.py FOLDER. Children are forked from one process that has everything imported.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from coder_toys import KINDS, SHORT, differences, draw_rows

import interp
from interp.coders.train import TrainingInterrupted, checkpoint, train_coders

OPTIONS = {
    **SHORT,
    "tokens": 2400,
    "checkpoint_every": 4,
    "optimizer": "schedule-free",
    "revival": "resample",
}
CONFIGS = {name: KINDS[name] for name in ("topk", "jumprelu")}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED = 75
"""A child's status after TrainingInterrupted."""


def train(folder: Path | None) -> Any:
    return train_coders(CONFIGS, draw_rows(), checkpoint=folder, progress=False, **OPTIONS)


def write_slowly() -> None:
    """Make every file of a checkpoint take long: half of it, a wait, the rest."""

    def slowly(path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(0.004)
            file.write(data[len(data) // 2 :])
        return path

    def save_record(path: Path, kind: str, tensors: Any, meta: Any) -> Path:
        written = plain_record(path.with_name("whole"), kind, tensors, meta)
        data = written.read_bytes()
        written.unlink()
        return slowly(path, data)

    plain_record = checkpoint.save_record
    checkpoint.save_record, checkpoint.write_whole = save_record, slowly  # type: ignore[assignment]


def run_child(folder: Path, slow: bool) -> int:
    """Train in a forked child; returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        # a process that was started in the background may ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if slow:
            write_slowly()
        train(folder)
        status = 0
    except TrainingInterrupted:
        status = STOPPED
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        os._exit(status)


def count_whole(folder: Path) -> int:
    """Checkpoints in a folder; each must be whole: its coders load, and so does its state."""
    found = 0
    for path in folder.glob("step-*"):
        for name in CONFIGS:
            coder = interp.load_coder(path / "coders" / name)
            assert all(bool(value.isfinite().all()) for value in coder.parameters())
        for file in ("state.json", "rows-0.json"):
            json.loads((path / file).read_text())
        found += 1
    return found


def stop_at_random(folder: Path, number: int, seconds: float) -> dict[str, Any]:
    """One training, stopped up to three times."""
    rng, sent = random.Random(number), SIGNALS[number % 3]
    statuses, whole = [], []
    for attempt in range(4):
        child = run_child(folder, slow=number % 2 == 0)
        if attempt < 3:
            time.sleep(rng.uniform(0.05, 0.6) * seconds)
            os.kill(child, sent)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        statuses.append(status)
        if folder.exists():
            whole.append(count_whole(folder))
        if status == 0:
            break
    return {"signal": sent.name, "statuses": statuses, "whole": whole}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    whole = train(None)
    began = time.perf_counter()
    child = run_child(root / "plain", slow=True)
    assert os.waitpid(child, 0)[1] == 0
    seconds = time.perf_counter() - began
    for number in range(10):
        folder = root / f"run-{number}"
        found = stop_at_random(folder, number, seconds)
        ended = train(folder)
        sys.stdout.write(json.dumps({**found, "differs": differences(whole, ended)}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
