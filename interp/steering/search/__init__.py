"""Search: which layer, position and dose, by heuristics, gradients, filters, and brute force that judges them."""

from interp.steering.search.choose import steering_from as steering_from
from interp.steering.search.choose import weighted_steering as weighted_steering
from interp.steering.search.compare import compare_searches as compare_searches
from interp.steering.search.divergence import js_divergence as js_divergence
from interp.steering.search.kl_filter import KLFilter as KLFilter
from interp.steering.search.objective import WordOdds as WordOdds
from interp.steering.search.objective import attribute_objective as attribute_objective
from interp.steering.search.scoring import SEARCHES as SEARCHES
from interp.steering.search.search import search_steering as search_steering
