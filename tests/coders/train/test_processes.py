"""Two processes under torchrun train what one trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import coder_processes
import pytest
import torch
from coder_toys import weights_of
from safetensors.torch import load_file

import interp
from interp.coders.train.distributed import Processes


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote."""
    place = tmp_path_factory.mktemp("processes")
    paths = [str(root), str(root / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    script = str(root / "tests" / "coder_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    done = subprocess.run(
        [*command, str(place)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return place


def _told(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"told-{rank}.json").read_text())
    return found


def test_two_processes_train_what_one_trains(folder: Path) -> None:
    both = [load_file(str(folder / f"weights-{rank}.safetensors")) for rank in range(2)]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    # not to the bit: gradients are summed in another order
    alone = coder_processes.train()
    for name in ("topk", "standard"):
        for key, value in weights_of(alone[name]).items():
            torch.testing.assert_close(both[0][f"{name}/{key}"], value, rtol=1e-4, atol=1e-5)


def test_counts_are_of_all_rows(folder: Path) -> None:
    first, second = _told(folder, 0), _told(folder, 1)
    assert first["tokens"] == second["tokens"] == 704 and first["odd"] == second["odd"] == 351
    assert first["dead"] == second["dead"] and first["l0"] == second["l0"]
    assert any(value > 0 for value in first["dead"]["topk"])


def test_a_signal_to_one_stops_all_and_they_resume_to_the_bit(folder: Path) -> None:
    for rank in range(2):
        told = _told(folder, rank)
        assert told["stopped"] == 6 and told["resumed"] and told["again"] == []
    assert sorted(path.name for path in (folder / "pieces" / "step-00000006").glob("rows-*.json")) == [
        "rows-0.json",
        "rows-1.json",
    ]
    for name in coder_processes.CONFIGS:
        assert interp.load_coder(folder / "whole" / "coders" / name).d_sae == 24


def test_one_process_says_what_it_says() -> None:
    alone = Processes()
    assert alone.is_first and alone.count_rows(7) == 7 and alone.count_rows(0) == 0 and alone.highest(3) == 3
    counts = torch.tensor([1, 2])
    assert alone.add_up(counts) is counts
