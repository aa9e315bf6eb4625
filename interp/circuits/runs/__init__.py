"""Running circuits: edges of a circuit carry the run's own values, all others the ablated ones.

The base run is the clean one. A reader's input is what it would be in the ablated run, plus, for every edge
of the circuit that ends there, the difference that the edge's writer makes: its output in the run of this
circuit less its ablated output. So the whole graph gives the clean run and no edge gives the ablated
one.
"""

from interp.circuits.runs.prepared import CircuitRuns as CircuitRuns
from interp.circuits.runs.prepared import prepare_circuits as prepare_circuits
