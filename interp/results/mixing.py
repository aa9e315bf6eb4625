"""How far a shuffle in bounded memory is from a perfect one."""

from __future__ import annotations

from dataclasses import dataclass

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Mixing(Record):
    """Order of the rows of a source before and after a shuffle buffer, over one epoch.

    What to do about it: ``partners`` falls as ``batch_size / (2 buffer_rows)`` until it meets what a perfect
    shuffle gives, so a buffer twice as large halves what is above. Raises :class:`RecordError` for counts that
    cannot be.
    """

    n_rows: int
    batch_size: int
    buffer_rows: int
    n_prompts: int | None
    """``None`` where the source does not say which prompt a row is of."""
    partners: float | None
    """How many other rows of its own prompt a row meets in its batch, in the mean over rows."""
    partners_expected: float | None
    """The same after a perfect shuffle of all rows."""
    order_correlation: float
    """Spearman's, between the order of the source and the order given out: 1 unshuffled, 0 after a perfect
    shuffle. It says how far training follows the order of the data (its drift), not whether batches are mixed."""
    distance: tuple[float, ...]
    """Quantiles .1, .5 and .9 of how far a row is moved, forward or back, in buffers of rows."""
    distance_expected: tuple[float, ...]
    """The same after a perfect shuffle."""
    seed: int
    provenance: Provenance

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.buffer_rows or self.n_rows < 1:
            raise RecordError(
                f"Mixing is of at least one row and a buffer that holds a batch; got {self.n_rows} rows, batches of "
                f"{self.batch_size}, a buffer of {self.buffer_rows}."
            )

    @property
    def clumping(self) -> float | None:
        """``partners`` over ``partners_expected``: 1 is a perfect shuffle; ``None`` where no prompt has two rows."""
        return self.partners / self.partners_expected if self.partners and self.partners_expected else None

    def summary(self) -> str:
        """What was measured, in a few lines."""
        lines = [
            f"{self.n_rows:,} rows in batches of {self.batch_size:,} from a buffer of {self.buffer_rows:,} "
            f"({self.buffer_rows / self.n_rows:.3g} of the data)"
        ]
        if self.partners is not None and self.partners_expected is not None:
            times = "" if self.clumping is None else f", {self.clumping:.3g} times as many"
            lines.append(
                f"a row meets {self.partners:.3g} others of its own prompt in its batch; {self.partners_expected:.3g} "
                f"after a perfect shuffle{times}"
            )
        moved, best = (
            " / ".join(f"{q:.3g}" for q in found) for found in (self.distance, self.distance_expected)
        )
        lines += [
            f"rank correlation of order in and order out: {self.order_correlation:.4f}; 0 after a perfect shuffle",
            f"a row is moved by {moved} buffers (quantiles .1 / .5 / .9); {best} by a perfect shuffle",
        ]
        return "\n".join(lines)
