"""Dictionaries against features that are known: planted data, matching, absorption and geometry."""

from interp.coders.ground_truth.absorption import measure_absorption as measure_absorption
from interp.coders.ground_truth.dictionary import Dictionary as Dictionary
from interp.coders.ground_truth.dictionary import LinearDictionary as LinearDictionary
from interp.coders.ground_truth.dictionary import random_dictionary as random_dictionary
from interp.coders.ground_truth.geometry import measure_geometry as measure_geometry
from interp.coders.ground_truth.match import match_features as match_features
from interp.coders.ground_truth.match import match_random as match_random
from interp.coders.ground_truth.planted import SUITES as SUITES
from interp.coders.ground_truth.planted import PlantedConfig as PlantedConfig
from interp.coders.ground_truth.planted import PlantedFeatures as PlantedFeatures
from interp.coders.ground_truth.planted import load_suite as load_suite
from interp.coders.ground_truth.planted import plant_features as plant_features
from interp.coders.ground_truth.seeds import compare_seeds as compare_seeds
from interp.coders.ground_truth.structure import Correlated as Correlated
from interp.coders.ground_truth.structure import Hierarchy as Hierarchy
from interp.coders.ground_truth.structure import Independent as Independent
from interp.coders.ground_truth.transcoder import PlantedTranscoder as PlantedTranscoder
from interp.coders.ground_truth.transcoder import plant_transcoder as plant_transcoder
