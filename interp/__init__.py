"""A workbench for mechanistic interpretability of transformer language models.

Every public name is loaded when it is first used: ``import interp`` alone imports no torch.

>>> import interp
>>> "load_model" in dir(interp)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import plots as plots
    from interp import tasks as tasks
    from interp.circuits import EdgeAttribution as EdgeAttribution
    from interp.circuits import EdgeAttributionStar as EdgeAttributionStar
    from interp.circuits import EdgeIntegratedGradients as EdgeIntegratedGradients
    from interp.circuits import EdgeRelevance as EdgeRelevance
    from interp.circuits import SearchPlan as SearchPlan
    from interp.circuits import ablate_across_tasks as ablate_across_tasks
    from interp.circuits import build_graph as build_graph
    from interp.circuits import check_circuit as check_circuit
    from interp.circuits import choose_circuit as choose_circuit
    from interp.circuits import compare_checkpoints as compare_checkpoints
    from interp.circuits import compare_circuits as compare_circuits
    from interp.circuits import find_circuit as find_circuit
    from interp.circuits import find_discrete_circuit as find_discrete_circuit
    from interp.circuits import measure_attention as measure_attention
    from interp.circuits import measure_completeness as measure_completeness
    from interp.circuits import measure_faithfulness as measure_faithfulness
    from interp.circuits import measure_minimality as measure_minimality
    from interp.circuits import measure_recovery as measure_recovery
    from interp.circuits import prepare_circuits as prepare_circuits
    from interp.circuits import repair_attention as repair_attention
    from interp.circuits import score_edges as score_edges
    from interp.circuits import search_acdc as search_acdc
    from interp.circuits import search_circuits as search_circuits
    from interp.circuits import verify_edges as verify_edges
    from interp.coders import Coder as Coder
    from interp.coders import CoderBatch as CoderBatch
    from interp.coders import CoderConfig as CoderConfig
    from interp.coders import TrainingConfig as TrainingConfig
    from interp.coders import TrainingInterrupted as TrainingInterrupted
    from interp.coders import train_coder as train_coder
    from interp.coders import train_coders as train_coders
    from interp.coders.dashboard import profile_latents as profile_latents
    from interp.coders.end_to_end import finetune_coder as finetune_coder
    from interp.coders.evaluate import evaluate_coder as evaluate_coder
    from interp.coders.files import bundled_coders as bundled_coders
    from interp.coders.files import load_coder as load_coder
    from interp.coders.files import save_coder as save_coder
    from interp.coders.ground_truth import PlantedConfig as PlantedConfig
    from interp.coders.ground_truth import compare_seeds as compare_seeds
    from interp.coders.ground_truth import load_suite as load_suite
    from interp.coders.ground_truth import match_features as match_features
    from interp.coders.ground_truth import match_random as match_random
    from interp.coders.ground_truth import measure_absorption as measure_absorption
    from interp.coders.ground_truth import measure_geometry as measure_geometry
    from interp.coders.ground_truth import plant_features as plant_features
    from interp.coders.ground_truth import plant_transcoder as plant_transcoder
    from interp.coders.head_attribution import attribute_heads as attribute_heads
    from interp.coders.induction_latents import score_induction_latents as score_induction_latents
    from interp.coders.plan import TrainingPlan as TrainingPlan
    from interp.coders.plan_file import read_training_plan as read_training_plan
    from interp.coders.planned_training import run_training_plan as run_training_plan
    from interp.coders.probing import attribute_data as attribute_data
    from interp.coders.probing import match_attributes as match_attributes
    from interp.coders.probing import perturb_probes as perturb_probes
    from interp.coders.probing import probe_latents as probe_latents
    from interp.coders.probing import remove_shortcuts as remove_shortcuts
    from interp.coders.saelens import from_saelens as from_saelens
    from interp.coders.saelens import to_saelens as to_saelens
    from interp.coders.semi_nmf import SemiNMF as SemiNMF
    from interp.coders.semi_nmf import fit_semi_nmf as fit_semi_nmf
    from interp.coders.sources import ShuffleBuffer as ShuffleBuffer
    from interp.coders.sources import cache_activations as cache_activations
    from interp.coders.sources import measure_mixing as measure_mixing
    from interp.coders.sources import open_activations as open_activations
    from interp.coders.sources import stream_activations as stream_activations
    from interp.coders.sources import tensor_activations as tensor_activations
    from interp.coders.substitute import substitute as substitute
    from interp.errors import BenchError as BenchError
    from interp.errors import CircuitError as CircuitError
    from interp.errors import CoderError as CoderError
    from interp.errors import DataFileError as DataFileError
    from interp.errors import ExportError as ExportError
    from interp.errors import InterpError as InterpError
    from interp.errors import InterventionError as InterventionError
    from interp.errors import KernelError as KernelError
    from interp.errors import LensError as LensError
    from interp.errors import MetricError as MetricError
    from interp.errors import ModelError as ModelError
    from interp.errors import PatchError as PatchError
    from interp.errors import RecordError as RecordError
    from interp.errors import RuleError as RuleError
    from interp.errors import SiteError as SiteError
    from interp.errors import SteeringError as SteeringError
    from interp.errors import TaskError as TaskError
    from interp.errors import TokenizationError as TokenizationError
    from interp.errors import UnreachedDoseError as UnreachedDoseError
    from interp.kernels import use_kernels as use_kernels
    from interp.lenses import attention_patterns as attention_patterns
    from interp.lenses import direct_logit_attribution as direct_logit_attribution
    from interp.lenses import logit_lens as logit_lens
    from interp.lenses import score_heads as score_heads
    from interp.models import add as add
    from interp.models import apply as apply
    from interp.models import clamp as clamp
    from interp.models import load_model as load_model
    from interp.models import mean as mean
    from interp.models import project as project
    from interp.models import replace as replace
    from interp.models import resample as resample
    from interp.models import scale as scale
    from interp.models import zero as zero
    from interp.models.capture import capture as capture
    from interp.models.capture import capture_stream as capture_stream
    from interp.models.intervene import intervene as intervene
    from interp.models.relevance import RelevanceRules as RelevanceRules
    from interp.models.relevance import UserRule as UserRule
    from interp.models.relevance import relevance_rules as relevance_rules
    from interp.models.relevance import rule_table as rule_table
    from interp.patching import Attribution as Attribution
    from interp.patching import AttributionStar as AttributionStar
    from interp.patching import IntegratedGradients as IntegratedGradients
    from interp.patching import Relevance as Relevance
    from interp.patching import attribute_tokens as attribute_tokens
    from interp.patching import check_ablation as check_ablation
    from interp.patching import check_conservation as check_conservation
    from interp.patching import check_masking as check_masking
    from interp.patching import compare_methods as compare_methods
    from interp.patching import patch as patch
    from interp.patching import patch_paths as patch_paths
    from interp.patching import patch_sets as patch_sets
    from interp.patching import patch_subspace as patch_subspace
    from interp.patching import search_sets as search_sets
    from interp.patching import verify_scores as verify_scores
    from interp.reports import coder_report as coder_report
    from interp.reports import write_dashboard as write_dashboard
    from interp.results import AttributeMatch as AttributeMatch
    from interp.results import Circuit as Circuit
    from interp.results import CircuitCheck as CircuitCheck
    from interp.results import CoderEvaluation as CoderEvaluation
    from interp.results import CoderHistory as CoderHistory
    from interp.results import CoderPareto as CoderPareto
    from interp.results import CoderProfile as CoderProfile
    from interp.results import DoseCalibration as DoseCalibration
    from interp.results import EdgeScores as EdgeScores
    from interp.results import Faithfulness as Faithfulness
    from interp.results import FeatureRecovery as FeatureRecovery
    from interp.results import Graph as Graph
    from interp.results import KernelTimings as KernelTimings
    from interp.results import LatentProfile as LatentProfile
    from interp.results import OffTarget as OffTarget
    from interp.results import PatchScores as PatchScores
    from interp.results import Recovery as Recovery
    from interp.results import RecoveryTable as RecoveryTable
    from interp.results import SetScores as SetScores
    from interp.results import SteeredText as SteeredText
    from interp.results import SteeringEvaluation as SteeringEvaluation
    from interp.results import TokenScores as TokenScores
    from interp.steering import Steering as Steering
    from interp.steering import calibrate_dose as calibrate_dose
    from interp.steering import extract_steering as extract_steering
    from interp.steering import load_steering as load_steering
    from interp.steering.apply import apply_rows as apply_rows
    from interp.steering.bake import CasalConfig as CasalConfig
    from interp.steering.bake import bake_bias as bake_bias
    from interp.steering.bake import bake_orthogonal as bake_orthogonal
    from interp.steering.bake import compare_baked as compare_baked
    from interp.steering.bake import edit_spectrum as edit_spectrum
    from interp.steering.bake import fit_casal as fit_casal
    from interp.steering.bake import split_by_knowledge as split_by_knowledge
    from interp.steering.conditions import Condition as Condition
    from interp.steering.conditions import fit_condition as fit_condition
    from interp.steering.controller import Controller as Controller
    from interp.steering.controller import ControllerConfig as ControllerConfig
    from interp.steering.controller import fit_controller as fit_controller
    from interp.steering.evaluate import evaluate_steering as evaluate_steering
    from interp.steering.evaluate import measure_off_target as measure_off_target
    from interp.steering.extract import extract_directions as extract_directions
    from interp.steering.extract import extract_experts as extract_experts
    from interp.steering.extract import extract_latents as extract_latents
    from interp.steering.extract import find_relation_neurons as find_relation_neurons
    from interp.steering.extract import find_value_vectors as find_value_vectors
    from interp.steering.extract import recover_from_model as recover_from_model
    from interp.steering.gated import measure_gated as measure_gated
    from interp.steering.gguf import export_gguf as export_gguf
    from interp.steering.gguf import import_gguf as import_gguf
    from interp.steering.learn import LinEASConfig as LinEASConfig
    from interp.steering.learn import LowRankConfig as LowRankConfig
    from interp.steering.learn import fit_layerwise_maps as fit_layerwise_maps
    from interp.steering.learn import fit_lineas as fit_lineas
    from interp.steering.learn import fit_low_rank as fit_low_rank
    from interp.steering.monitor import Detector as Detector
    from interp.steering.monitor import Guard as Guard
    from interp.steering.monitor import detector_of as detector_of
    from interp.steering.monitor import evaluate_detector as evaluate_detector
    from interp.steering.monitor import fit_detector as fit_detector
    from interp.steering.monitor import fit_guard as fit_guard
    from interp.steering.monitor import load_detector as load_detector
    from interp.steering.monitor import load_guard as load_guard
    from interp.steering.monitor import watch as watch
    from interp.steering.places import InstructionEnd as InstructionEnd
    from interp.steering.places import TextPattern as TextPattern
    from interp.steering.search import WordOdds as WordOdds
    from interp.steering.search import compare_searches as compare_searches
    from interp.steering.search import search_steering as search_steering
    from interp.steering.steering import steer_with as steer_with
    from interp.types import Site as Site
    from interp.types import parse_site as parse_site
    from interp.types import parse_sites as parse_sites

__version__ = "0.1.0"

_ROOMS = ("plots", "tasks")
_EXPORTS = {
    "interp.circuits": (
        "EdgeAttribution",
        "EdgeAttributionStar",
        "EdgeIntegratedGradients",
        "EdgeRelevance",
        "SearchPlan",
        "ablate_across_tasks",
        "build_graph",
        "check_circuit",
        "choose_circuit",
        "compare_checkpoints",
        "compare_circuits",
        "find_circuit",
        "find_discrete_circuit",
        "measure_attention",
        "measure_completeness",
        "measure_faithfulness",
        "measure_minimality",
        "measure_recovery",
        "prepare_circuits",
        "repair_attention",
        "score_edges",
        "search_acdc",
        "search_circuits",
        "verify_edges",
    ),
    "interp.coders": (
        "Coder",
        "CoderBatch",
        "CoderConfig",
        "TrainingConfig",
        "TrainingInterrupted",
        "train_coder",
        "train_coders",
    ),
    "interp.coders.dashboard": ("profile_latents",),
    "interp.coders.end_to_end": ("finetune_coder",),
    "interp.coders.evaluate": ("evaluate_coder",),
    "interp.coders.files": (
        "bundled_coders",
        "load_coder",
        "save_coder",
    ),
    "interp.coders.ground_truth": (
        "PlantedConfig",
        "compare_seeds",
        "load_suite",
        "match_features",
        "match_random",
        "measure_absorption",
        "measure_geometry",
        "plant_features",
        "plant_transcoder",
    ),
    "interp.coders.head_attribution": ("attribute_heads",),
    "interp.coders.induction_latents": ("score_induction_latents",),
    "interp.coders.plan": ("TrainingPlan",),
    "interp.coders.plan_file": ("read_training_plan",),
    "interp.coders.planned_training": ("run_training_plan",),
    "interp.coders.probing": (
        "attribute_data",
        "match_attributes",
        "perturb_probes",
        "probe_latents",
        "remove_shortcuts",
    ),
    "interp.coders.saelens": (
        "from_saelens",
        "to_saelens",
    ),
    "interp.coders.semi_nmf": (
        "SemiNMF",
        "fit_semi_nmf",
    ),
    "interp.coders.sources": (
        "ShuffleBuffer",
        "cache_activations",
        "measure_mixing",
        "open_activations",
        "stream_activations",
        "tensor_activations",
    ),
    "interp.coders.substitute": ("substitute",),
    "interp.errors": (
        "BenchError",
        "CircuitError",
        "CoderError",
        "DataFileError",
        "ExportError",
        "InterpError",
        "InterventionError",
        "KernelError",
        "LensError",
        "MetricError",
        "ModelError",
        "PatchError",
        "RecordError",
        "RuleError",
        "SiteError",
        "SteeringError",
        "TaskError",
        "TokenizationError",
        "UnreachedDoseError",
    ),
    "interp.kernels": ("use_kernels",),
    "interp.lenses": (
        "attention_patterns",
        "direct_logit_attribution",
        "logit_lens",
        "score_heads",
    ),
    "interp.models": (
        "add",
        "apply",
        "capture",
        "capture_stream",
        "clamp",
        "intervene",
        "load_model",
        "mean",
        "project",
        "replace",
        "resample",
        "scale",
        "zero",
    ),
    "interp.models.relevance": (
        "RelevanceRules",
        "UserRule",
        "relevance_rules",
        "rule_table",
    ),
    "interp.patching": (
        "Attribution",
        "AttributionStar",
        "IntegratedGradients",
        "Relevance",
        "attribute_tokens",
        "check_ablation",
        "check_conservation",
        "check_masking",
        "compare_methods",
        "patch",
        "patch_paths",
        "patch_sets",
        "patch_subspace",
        "search_sets",
        "verify_scores",
    ),
    "interp.reports": (
        "coder_report",
        "write_dashboard",
    ),
    "interp.results": (
        "AttributeMatch",
        "Circuit",
        "CircuitCheck",
        "CoderEvaluation",
        "CoderHistory",
        "CoderPareto",
        "CoderProfile",
        "DoseCalibration",
        "EdgeScores",
        "Faithfulness",
        "FeatureRecovery",
        "Graph",
        "KernelTimings",
        "LatentProfile",
        "OffTarget",
        "PatchScores",
        "Recovery",
        "RecoveryTable",
        "SetScores",
        "SteeredText",
        "SteeringEvaluation",
        "TokenScores",
    ),
    "interp.steering": (
        "Steering",
        "calibrate_dose",
        "extract_steering",
        "load_steering",
    ),
    "interp.steering.apply": ("apply_rows",),
    "interp.steering.bake": (
        "CasalConfig",
        "bake_bias",
        "bake_orthogonal",
        "compare_baked",
        "edit_spectrum",
        "fit_casal",
        "split_by_knowledge",
    ),
    "interp.steering.conditions": (
        "Condition",
        "fit_condition",
    ),
    "interp.steering.controller": (
        "Controller",
        "ControllerConfig",
        "fit_controller",
    ),
    "interp.steering.evaluate": (
        "evaluate_steering",
        "measure_off_target",
    ),
    "interp.steering.extract": (
        "extract_directions",
        "extract_experts",
        "extract_latents",
        "find_relation_neurons",
        "find_value_vectors",
        "recover_from_model",
    ),
    "interp.steering.gated": ("measure_gated",),
    "interp.steering.gguf": (
        "export_gguf",
        "import_gguf",
    ),
    "interp.steering.learn": (
        "LinEASConfig",
        "LowRankConfig",
        "fit_layerwise_maps",
        "fit_lineas",
        "fit_low_rank",
    ),
    "interp.steering.monitor": (
        "Detector",
        "Guard",
        "detector_of",
        "evaluate_detector",
        "fit_detector",
        "fit_guard",
        "load_detector",
        "load_guard",
        "watch",
    ),
    "interp.steering.places": (
        "InstructionEnd",
        "TextPattern",
    ),
    "interp.steering.search": (
        "WordOdds",
        "compare_searches",
        "search_steering",
    ),
    "interp.steering.steering": ("steer_with",),
    "interp.types": (
        "Site",
        "parse_site",
        "parse_sites",
    ),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(["__version__", *_ROOMS, *_HOME])


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"interp.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    from interp.errors import suggest_names

    # a single underscore or a dunder is a probe by a tool (copy, inspect, pytest), never a misspelling
    near = "" if name.startswith("_") else suggest_names(name, __all__)
    raise AttributeError(f"module 'interp' has no attribute {name!r}{near}")


def __dir__() -> list[str]:
    return __all__
