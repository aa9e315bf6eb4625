"""The dose of a steering: KL on neutral text against its strength."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plots.bars import value_axis
from interp.plots.faithfulness import add_band, rgba
from interp.plots.heatmaps import to_array
from interp.plots.scales import BLUE, LINES
from interp.plots.sheet import Panel, Sheet
from interp.results.steering_dose import DoseCalibration

_WIDTH, _HEIGHT = 560, 320
_STEPS = 12
"""Points drawn between two measured strengths: doses are looked up along the root of the KL, not along a line."""
_MARKED = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_MOST_MARKS = 4


def plot_dose_calibration(found: DoseCalibration) -> go.Figure:
    """Draw KL(unsteered || steered) over the strength, with its band, and where round doses lie on either side.

    The curve is the one doses are looked up on; points were measured. Beyond the first fall of the KL, where no
    dose is looked up, it is dotted.
    """
    sheet = Sheet()
    panel = sheet.add_panel("", _WIDTH, _HEIGHT, left=62, right=20, top=12, bottom=46)
    strengths, kl = to_array(found.strengths).astype(float), to_array(found.kl).astype(float)
    low, high = to_array(found.low).astype(float), to_array(found.high).astype(float)
    shared = dict(xaxis=panel.xaxis, yaxis=panel.yaxis, legend="legend")
    add_band(
        sheet,
        _dense(strengths).tolist(),
        _along(strengths, low),
        _along(strengths, high),
        rgba(BLUE, 0.15),
        dict(xaxis=panel.xaxis, yaxis=panel.yaxis),
    )
    _add_curve(sheet, found, strengths, kl, shared)
    _add_points(sheet, found, shared)
    _add_doses(sheet, found, shared)
    _write_axes(sheet, panel, strengths, max(float(high.max()), float(kl.max())))
    names = ["measured", "dose"]
    sheet.add_legend(names)
    sheet.add_note(f"band: {found.confidence:.0%} bootstrap interval over rows of text")
    sheet.add_note(f"{found.n_tokens:,} tokens of {found.text}")
    return sheet.finish("Dose of a steering: KL on neutral text by strength", found.provenance.summary())


def _dense(x: np.ndarray) -> np.ndarray:
    return np.interp(np.arange((len(x) - 1) * _STEPS + 1) / _STEPS, np.arange(len(x)), x)


def _along(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.interp(_dense(x), x, np.sqrt(np.clip(y, 0, None))) ** 2


def _add_curve(
    sheet: Sheet, found: DoseCalibration, strengths: np.ndarray, kl: np.ndarray, shared: dict[str, str]
) -> None:
    x, y = _dense(strengths), _along(strengths, kl)
    first, last = found.strength_range
    inside = (x >= first - 1e-9) & (x <= last + 1e-9)
    for chosen, dash in ((inside, "solid"), (x <= first + 1e-9, "dot"), (x >= last - 1e-9, "dot")):
        if chosen.sum() > 1:
            sheet.figure.add_trace(
                go.Scatter(
                    x=x[chosen].tolist(),
                    y=y[chosen].tolist(),
                    mode="lines",
                    line=dict(color=BLUE, width=2, dash=dash),
                    hoverinfo="skip",
                    showlegend=False,
                    **shared,
                )
            )


def _add_points(sheet: Sheet, found: DoseCalibration, shared: dict[str, str]) -> None:
    rows = zip(*(getattr(found, name).tolist() for name in ("strengths", "kl", "low", "high")), strict=True)
    sheet.figure.add_trace(
        go.Scatter(
            x=found.strengths.tolist(),
            y=found.kl.tolist(),
            mode="markers",
            marker=dict(size=6, color=BLUE),
            name="measured",
            hovertext=[
                f"strength {strength:.4g}<br>KL {kl:.4g} nats a token [{low:.4g}, {high:.4g}]"
                for strength, kl, low, high in rows
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=True,
            cliponaxis=False,
            **shared,
        )
    )


def _add_doses(sheet: Sheet, found: DoseCalibration, shared: dict[str, str]) -> None:
    low, high = found.doses
    doses = [
        sign * dose
        for sign, most in ((-1, -low), (1, high))
        for dose in [dose for dose in _MARKED if dose <= most][-_MOST_MARKS:]
    ]
    places = [found.strength_for(dose) for dose in doses]
    sheet.figure.add_trace(
        go.Scatter(
            x=places,
            y=[abs(dose) for dose in doses],
            mode="markers+text",
            marker=dict(size=9, symbol="diamond-open", color=LINES[1], line_width=2),
            text=[f"{abs(dose):g}" for dose in doses],
            textposition=["bottom left" if dose < 0 else "bottom right" for dose in doses],
            name="dose",
            hovertext=[
                f"dose {dose:+g} nats: strength {place:.4g}"
                for dose, place in zip(doses, places, strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=True,
            cliponaxis=False,
            **shared,
        )
    )


def _write_axes(sheet: Sheet, panel: Panel, strengths: np.ndarray, top: float) -> None:
    number = panel.xaxis[1:]
    air = 0.04 * (strengths[-1] - strengths[0])
    sheet.figure.layout[f"xaxis{number}"] = value_axis(
        "strength", range=[float(strengths[0] - air), float(strengths[-1] + air)]
    )
    top = top or 1.0
    sheet.figure.layout[f"yaxis{number}"] = value_axis(
        "KL(unsteered || steered), nats a token", range=[-0.04 * top, 1.08 * top]
    )
