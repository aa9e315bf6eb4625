"""Which operation of a model is covered by which rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.models.model import Model
from interp.models.relevance.operations import Operation, list_operations
from interp.models.relevance.rules import RelevanceRules, resolve_rules

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RuleRow:
    """One operation and its rule."""

    operation: str
    kind: str
    rule: str
    """``gradient`` where the operation keeps its own."""


@dataclass(frozen=True)
class RuleTable:
    """What :func:`rule_table` returns; linear maps, which have the 0-rule, are not listed."""

    model: str
    family: str
    rules: str
    rows: tuple[RuleRow, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row an operation: its name, kind and rule."""
        import pandas as pd

        return pd.DataFrame([(row.operation, row.kind, row.rule) for row in self.rows], columns=list(COLUMNS))

    def summary(self) -> str:
        """One line: how many operations of each kind have which rule."""
        counts = Counter((row.kind, row.rule) for row in self.rows)
        listed = ", ".join(f"{n} {kind}: {rule}" for (kind, rule), n in counts.items())
        return f"{self.rules} on {self.model} ({self.family}): {listed}; linear maps: 0-rule"


COLUMNS = ("operation", "kind", "rule")


def rule_table(model: Model, rules: str | RelevanceRules = "relp") -> RuleTable:
    """Say which rule covers which operation of a model.

    Raises :class:`RuleError` as :func:`relevance_rules` does on entering.
    """
    chosen, operations = resolve_rules(rules), list_operations(model)
    chosen.check(operations, model.traits)
    return build_table(model, chosen, operations)


def build_table(model: Model, rules: RelevanceRules, operations: tuple[Operation, ...]) -> RuleTable:
    """The table of rules that were checked to fit."""
    rows = tuple(RuleRow(item.name, item.kind, rules.name_at(item)) for item in operations)
    return RuleTable(model.name, model.traits.family, rules.name, rows)
