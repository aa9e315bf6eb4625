"""Extraction: directions from contrasts, one small file a family of methods."""

from interp.steering.extract.directions import DIRECTIONS as DIRECTIONS
from interp.steering.extract.extract import extract_steering as extract_steering
