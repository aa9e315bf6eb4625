"""Ten trainings stopped by SIGKILL, SIGTERM and SIGINT at random moments end as one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STOPPED, TERMINATED, KILLED, DONE = 75, 143, -9, 0
PROMISED = {"SIGKILL": {KILLED}, "SIGTERM": {TERMINATED}, "SIGINT": {STOPPED, 1}}
"""How a child may end by a signal; 1: a KeyboardInterrupt before the first step."""


def test_ten_killed_trainings_end_equal_to_the_bit(root: Path, tmp_path: Path) -> None:
    paths = [str(root), str(root / "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "coder_kills.py"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    runs: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == 10
    assert {run["signal"] for run in runs} == set(PROMISED)
    for run in runs:
        assert run["differs"] == [], run
        *stopped, last = run["statuses"]
        assert last == DONE, run
        assert set(stopped) <= PROMISED[run["signal"]], run
        assert all(n <= 2 for n in run["whole"]), run
    assert sum(len(run["statuses"]) - 1 for run in runs) >= 10
