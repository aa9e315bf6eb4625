"""Dashboards: one page to leaf through the latents of a coder, drawn by the browser from data in the page."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import ExportError
from interp.reports.files import write_atomically
from interp.reports.page import check_html_path, open_page
from interp.results.coder_profile import CoderProfile
from interp.results.feature import TOP, LatentExamples, LatentNeighbours, LatentProfile
from interp.results.token_text import visible_token

_BINS = 48
"""Of the histogram of densities."""


def write_dashboard(
    profile: CoderProfile | LatentProfile, path: str | Path, *, title: str | None = None
) -> Path:
    """Write one latent, or all those of a coder's profile, as one self-contained HTML file; return its path.

    Each latent has its activations, the tokens it raises and lowers, its neighbours, and its examples as coloured
    text, where hovering a token gives its activation. Latents are chosen from a list that can be searched and
    sorted, by the arrow keys, or by the address (``page.html#latent-17``). The page holds each latent as data and
    draws the one that is looked at, without plotly and without anything from outside.

    Raises :class:`~interp.errors.ExportError` for a profile without latents, an ending other than ``.html``, and
    a file that cannot be written.
    """
    path = check_html_path(path)
    latents = (profile,) if isinstance(profile, LatentProfile) else profile.latents
    if not latents:
        raise ExportError(
            "this profile holds no latent to show; profile some: profile_latents(..., latents=100)."
        )
    first = latents[0]
    named = f"Latent {first.latent}" if isinstance(profile, LatentProfile) else "Latents"
    title = title or f"{named} at {first.site} of {first.provenance.model}"
    vocabulary = _Vocabulary()
    data = {
        "latents": [_latent(latent, vocabulary) for latent in latents],
        "density": _densities(profile) if isinstance(profile, CoderProfile) else None,
        "vocabulary": vocabulary.texts,
    }
    return write_atomically(path, _page(title, _lines(profile), data))


class _Vocabulary:
    """Every token text once, with its number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, token: str) -> int:
        if token not in self._numbers:
            self._numbers[token] = len(self.texts)
            self.texts.append(visible_token(token))
        return self._numbers[token]


def _lines(profile: CoderProfile | LatentProfile) -> list[str]:
    made = profile.provenance
    lines = profile.summary().splitlines() if isinstance(profile, CoderProfile) else []
    facts = [made.summary(), *made.notes]
    if made.n_prompts is not None:
        facts.append(f"{made.n_prompts:,} prompts")
    if made.seed is not None:
        facts.append(f"seed {made.seed}")
    return [*lines, " · ".join(dict.fromkeys(facts))]


def _densities(profile: CoderProfile) -> dict[str, Any]:
    """Histogram of log10 density over all latents that fire."""
    density = profile.density.double().numpy()
    low = min(-math.log10(profile.n_tokens) - 0.1, -1.0)
    counts, edges = np.histogram(np.log10(density[density > 0]), bins=_BINS, range=(low, 0.0))
    return {"counts": counts.tolist(), "low": low, "width": float(edges[1] - edges[0])}


def _latent(profile: LatentProfile, vocabulary: _Vocabulary) -> dict[str, Any]:
    written = profile.logits
    marks = [g for g in profile.examples if g.name != TOP and g.low > 0]
    return {
        "n": profile.latent,
        "label": profile.label or "",
        "facts": _facts(profile),
        "density": profile.density,
        "max": _short(profile.maximum),
        "counts": profile.counts.tolist(),
        "marks": [[f"{group.name.split('–')[0]} %", _short(group.low)] for group in marks],
        "up": [] if written is None else _pairs(written.raised_tokens, written.raised.tolist(), vocabulary),
        "down": []
        if written is None
        else _pairs(written.lowered_tokens, written.lowered.tolist(), vocabulary),
        "near": _near(profile.neighbours),
        "coactive": _near(profile.coactive),
        "heads": [] if profile.head_shares is None else [_short(x) for x in profile.head_shares.tolist()],
        "groups": [_group(group, vocabulary) for group in profile.examples],
    }


def _facts(profile: LatentProfile) -> list[str]:
    if profile.is_dead:
        return [f"never fired on {profile.n_tokens:,} tokens"]
    facts = [
        f"fires on {profile.density:.3%} of {profile.n_tokens:,} tokens",
        f"largest activation {profile.maximum:.4g}",
        f"mean {profile.mean:.4g}",
    ]
    if not math.isnan(profile.alignment):
        facts.append(f"cosine of encoder and decoder {profile.alignment:.2f}")
    return [*facts, *(f"F1 {name} {value:.2f}" for name, value in profile.f1.items())]


def _pairs(tokens: Sequence[str], values: Sequence[float], vocabulary: _Vocabulary) -> list[list[Any]]:
    return [[vocabulary.number(token), _short(value)] for token, value in zip(tokens, values, strict=True)]


def _near(near: LatentNeighbours) -> list[list[Any]]:
    return [[i, _short(v)] for i, v in zip(near.latents.tolist(), near.values.tolist(), strict=True)]


def _group(group: LatentExamples, vocabulary: _Vocabulary) -> dict[str, Any]:
    said = f"{group.low:.3g} to {group.high:.3g}, {group.share:.0%} of firings"
    rows = []
    for i, tokens in enumerate(group.tokens):
        values = group.activations[i, : len(tokens)].tolist()
        rows.append(
            {
                "t": [vocabulary.number(token) for token in tokens],
                # pairs of place and activation, for most are 0; null where the coder did not read
                "a": [[at, _short(v)] for at, v in enumerate(values) if math.isnan(v) or v != 0.0],
                "p": int(group.peaks[i]),
                "w": [int(group.prompts[i]), int(group.positions[i])],
            }
        )
    return {
        "name": "largest activations, one a prompt"
        if group.name == TOP
        else f"quantiles {group.name}: {said}",
        "rows": rows,
    }


def _short(value: float) -> float | None:
    """Four digits, for a page holds many; JSON has no NaN."""
    return None if math.isnan(value) else float(f"{value:.4g}")


def _embed(data: Any) -> str:
    """JSON that may stand in a script element whatever text it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _page(title: str, lines: Sequence[str], data: Any) -> str:
    files = resources.files("interp.reports")
    script = files.joinpath("dashboard.js").read_text(encoding="utf-8")
    style = files.joinpath("dashboard.css").read_text(encoding="utf-8")
    paragraphs = "\n".join(f'<p class="subtitle">{html.escape(line)}</p>' for line in lines)
    return f"""{open_page(title, style)}
</head>
<body>
<main>
<header>
<h1>{html.escape(title)}</h1>
{paragraphs}
</header>
<noscript><p>This page draws its latents with JavaScript; allow it to see them.</p></noscript>
<div id="controls"></div>
<section id="latent"></section>
<footer>Written by interp. Arrow keys: the latent before and after; / searches.</footer>
</main>
<script type="application/json" id="data">{_embed(data)}</script>
<script>{script}</script>
</body>
</html>
"""
