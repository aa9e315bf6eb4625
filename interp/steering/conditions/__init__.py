"""Conditional steering: act on prompts whose activations point a certain way (CAST, Lee et al. 2024)."""

from interp.steering.conditions.condition import Combination as Combination
from interp.steering.conditions.condition import Condition as Condition
from interp.steering.conditions.fit import FittedCondition as FittedCondition
from interp.steering.conditions.fit import fit_condition as fit_condition
