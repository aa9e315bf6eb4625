"""How a coder's arrays fit the activations: widths, and how many sites it reads and predicts."""

from __future__ import annotations

from dataclasses import dataclass

from interp.coders.config import CoderConfig
from interp.errors import CoderError


@dataclass(frozen=True)
class CoderShape:
    """Widths of input and output; with ``n_inputs`` over 0, x is [row, n_inputs, d_in]."""

    d_in: int
    d_out: int
    n_inputs: int = 0
    n_outputs: int = 0

    @property
    def flat_in(self) -> int:
        """Numbers that a row of the input has."""
        return self.d_in * max(self.n_inputs, 1)

    @property
    def flat_out(self) -> int:
        """Numbers that a row of the output has."""
        return self.d_out * max(self.n_outputs, 1)

    @property
    def input_axes(self) -> tuple[int, ...]:
        """Sizes of a row of the input."""
        return (self.n_inputs, self.d_in) if self.n_inputs else (self.d_in,)

    @property
    def output_axes(self) -> tuple[int, ...]:
        """Sizes of a row of the output."""
        return (self.n_outputs, self.d_out) if self.n_outputs else (self.d_out,)


def check_shape(config: CoderConfig, shape: CoderShape) -> None:
    """Raise :class:`CoderError` unless an architecture can have these inputs and outputs."""
    name = config.architecture
    several = bool(shape.n_inputs or shape.n_outputs)
    if name == "crosscoder":
        if not shape.n_inputs or (shape.n_inputs, shape.d_in) != (shape.n_outputs, shape.d_out):
            raise CoderError(
                f"a crosscoder rebuilds several sites of one width, x [row, site, d]; got {_text(shape)}."
            )
    elif name == "cross-layer-transcoder":
        if not shape.n_inputs or shape.n_inputs != shape.n_outputs:
            raise CoderError(
                "a cross-layer transcoder reads and predicts one site in each of several layers, x and target "
                f"[row, layer, d]; got {_text(shape)}."
            )
    elif several:
        raise CoderError(
            f"a {name} coder reads and predicts one site; got {_text(shape)}. For several sites take a crosscoder "
            "or a cross-layer-transcoder."
        )
    elif not config.reads_another_site and shape.d_in != shape.d_out:
        raise CoderError(f"a {name} coder rebuilds its input; got {_text(shape)}. Take a transcoder.")


def _text(shape: CoderShape) -> str:
    return f"inputs {list(shape.input_axes)} and outputs {list(shape.output_axes)}"
