"""Benchmarks: commands that measure this package against its peers, on speed and on agreement.

One file a benchmark (:mod:`~interp.bench.sweep`, :mod:`~interp.bench.edges`, :mod:`~interp.bench.kernels`,
:mod:`~interp.bench.gpu` ...), each with a ``run_*`` that gives a :class:`Report`; ``interp/cli`` has one command for
each. What they share: models and prompts (``cases``), clocks (``clock`` and, for single kernels of a GPU,
``device_clock``), the floor of operations (``flops``), the rows that are kept (``rows``) and where they were
measured (``setting``). No figure is reported before the numbers agree.

Names are loaded when they are first used: kernels are measured where only PyTorch and Triton are installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.bench.attribution import AttributionPlan as AttributionPlan
    from interp.bench.attribution import run_attribution as run_attribution
    from interp.bench.cases import parse_shape as parse_shape
    from interp.bench.coder_memory import CoderMemoryPlan as CoderMemoryPlan
    from interp.bench.coder_memory import run_coder_memory as run_coder_memory
    from interp.bench.coder_models import CoderModelsPlan as CoderModelsPlan
    from interp.bench.coder_models import run_coder_models as run_coder_models
    from interp.bench.coder_step import CoderStepPlan as CoderStepPlan
    from interp.bench.coder_step import run_coder_step as run_coder_step
    from interp.bench.coders import CodersPlan as CodersPlan
    from interp.bench.coders import run_coders as run_coders
    from interp.bench.edges import EdgesPlan as EdgesPlan
    from interp.bench.edges import run_edges as run_edges
    from interp.bench.gpu import GpuPlan as GpuPlan
    from interp.bench.gpu import run_gpu as run_gpu
    from interp.bench.growth import GrowthPlan as GrowthPlan
    from interp.bench.growth import run_growth as run_growth
    from interp.bench.kernels import KernelsPlan as KernelsPlan
    from interp.bench.kernels import run_kernels as run_kernels
    from interp.bench.methods import MethodsPlan as MethodsPlan
    from interp.bench.methods import run_methods as run_methods
    from interp.bench.recovery import RecoveryPlan as RecoveryPlan
    from interp.bench.recovery import run_recovery as run_recovery
    from interp.bench.report import Report as Report
    from interp.bench.report import Table as Table
    from interp.bench.rows import append_rows as append_rows
    from interp.bench.rows import check_rows_file as check_rows_file
    from interp.bench.setting import describe_setting as describe_setting
    from interp.bench.steering import SteeringPlan as SteeringPlan
    from interp.bench.steering import run_steering as run_steering
    from interp.bench.steering_bake import BakePlan as BakePlan
    from interp.bench.steering_bake import run_bake as run_bake
    from interp.bench.steering_gates import SteeringGatesPlan as SteeringGatesPlan
    from interp.bench.steering_gates import run_steering_gates as run_steering_gates
    from interp.bench.steering_maps import SteeringMapsPlan as SteeringMapsPlan
    from interp.bench.steering_maps import run_steering_maps as run_steering_maps
    from interp.bench.sweep import SweepPlan as SweepPlan
    from interp.bench.sweep import run_sweep as run_sweep

_EXPORTS = {
    "interp.bench.attribution": ("AttributionPlan", "run_attribution"),
    "interp.bench.cases": ("parse_shape",),
    "interp.bench.coder_memory": ("CoderMemoryPlan", "run_coder_memory"),
    "interp.bench.coder_models": ("CoderModelsPlan", "run_coder_models"),
    "interp.bench.coder_step": ("CoderStepPlan", "run_coder_step"),
    "interp.bench.coders": ("CodersPlan", "run_coders"),
    "interp.bench.edges": ("EdgesPlan", "run_edges"),
    "interp.bench.gpu": ("GpuPlan", "run_gpu"),
    "interp.bench.growth": ("GrowthPlan", "run_growth"),
    "interp.bench.kernels": ("KernelsPlan", "run_kernels"),
    "interp.bench.methods": ("MethodsPlan", "run_methods"),
    "interp.bench.recovery": ("RecoveryPlan", "run_recovery"),
    "interp.bench.report": ("Report", "Table"),
    "interp.bench.rows": ("append_rows", "check_rows_file"),
    "interp.bench.setting": ("describe_setting",),
    "interp.bench.steering": ("SteeringPlan", "run_steering"),
    "interp.bench.steering_bake": ("BakePlan", "run_bake"),
    "interp.bench.steering_gates": ("SteeringGatesPlan", "run_steering_gates"),
    "interp.bench.steering_maps": ("SteeringMapsPlan", "run_steering_maps"),
    "interp.bench.sweep": ("SweepPlan", "run_sweep"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'interp.bench' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
