"""The machine and the software that a figure was measured with."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from interp.results.provenance import installed_versions


@dataclass(frozen=True)
class Setting:
    """Columns that every row of a benchmark begins with."""

    date: str
    cpu: str
    cores: int
    threads: int
    wait_policy: str
    """Of OpenMP's threads, where the environment chose one."""
    ram_gb: float
    os: str
    python: str
    torch: str
    transformer_lens: str
    transformers: str
    interp: str
    device: str
    dtype: str


def describe_setting(device: torch.device, dtype: torch.dtype = torch.float32) -> Setting:
    """This machine, now."""
    versions = installed_versions()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Setting(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=_cpu(),
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
        wait_policy=os.environ.get("OMP_WAIT_POLICY", ""),
        ram_gb=_ram_gb(),
        os=platform.platform(),
        python=versions["python"],
        torch=versions["torch"],
        transformer_lens=versions["transformer-lens"],
        transformers=versions["transformers"],
        interp=versions["interp"],
        device=name,
        dtype=str(dtype).removeprefix("torch."),
    )


def _cpu() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _ram_gb() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):  # no such call on Windows
        return float("nan")
