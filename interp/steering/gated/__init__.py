"""Gated steering: gates with a score, their rates, and what a gated steering does to prompts."""

from interp.steering.gated.behaviour import Behaviour as Behaviour
from interp.steering.gated.behaviour import raise_words as raise_words
from interp.steering.gated.effects import measure_gated as measure_gated
from interp.steering.gated.rollouts import Rollouts as Rollouts
from interp.steering.gated.rollouts import continue_prompts as continue_prompts
from interp.steering.gated.scored import ScoredGate as ScoredGate
from interp.steering.gated.scored import calibrate_gate as calibrate_gate
from interp.steering.gated.scored import score_gates as score_gates
