"""Everything that was checked of one circuit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.errors import CircuitError, unknown_name
from interp.results.circuit import Circuit
from interp.results.circuit_knockouts import Completeness, Minimality
from interp.results.circuit_tests import HypothesisTest
from interp.results.faithfulness import Faithfulness
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class CircuitCheck(Record):
    """What :func:`interp.check_circuit` returns: is a circuit faithful, complete and minimal?

    Raises :class:`CircuitError` when faithfulness is not that of one circuit, or a test stands there twice.
    """

    circuit: Circuit
    faithfulness: Faithfulness
    """Of this circuit alone, beside random ones as large."""
    completeness: Completeness
    minimality: Minimality
    """Of its nodes; that of its edges is tested in :attr:`tests`."""
    tests: tuple[HypothesisTest, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        shape = tuple(self.faithfulness.n_edges.shape)
        if shape != (1, 1):
            raise CircuitError(
                f"a check is of one circuit; got the faithfulness of {shape[0]} methods at {shape[1]} sizes."
            )
        names = [test.name for test in self.tests]
        if len(set(names)) < len(names):
            raise CircuitError(f"each test stands in a check once; got {', '.join(names)}.")

    def test(self, name: str) -> HypothesisTest:
        """One of the tests by its name. Raises :class:`CircuitError` for a test that was not made."""
        found = next((test for test in self.tests if test.name == name), None)
        if found is None:
            raise CircuitError(unknown_name("test in this check", name, [test.name for test in self.tests]))
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row a test: null hypothesis, p-value, whether it is rejected, and what that says."""
        import pandas as pd

        return pd.DataFrame(
            {
                "test": [test.name for test in self.tests],
                "null": [test.null for test in self.tests],
                "p_value": [test.p_value for test in self.tests],
                "rejected": [test.rejected for test in self.tests],
                "holds": [test.holds for test in self.tests],
                "verdict": [test.verdict for test in self.tests],
            }
        )

    def summary(self) -> str:
        """Some lines: faithfulness against random circuits, completeness, minimality and every test."""
        found = self.faithfulness
        value = f"{float(found.values[0, 0]):z.2f} [{float(found.low[0, 0]):z.2f}, {float(found.high[0, 0]):z.2f}]"
        lines = [
            f"{self.circuit.n_edges} of {found.n_total} edges, {len(self.circuit.nodes)} nodes",
            f"faithfulness {value} (0 = everything ablated, 1 = the whole model)",
        ]
        for curve in found.nulls:
            drawn = found.null_values(curve)[0]
            lines.append(
                f"  {curve}: {float(drawn.mean()):z.2f}, the best of {len(drawn)}: {float(drawn.max()):z.2f}"
            )
        lines += [self.completeness.summary(), self.minimality.summary()]
        return "\n".join([*lines, *(test.summary() for test in self.tests)])

    def plot(self) -> go.Figure:
        """Everything in one figure (``interp.plots.plot_circuit_check``)."""
        return draw("plot_circuit_check", self)
