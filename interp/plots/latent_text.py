"""The examples of a latent as coloured text, which needs no script and no style sheet."""

from __future__ import annotations

import html
import math

from interp.errors import RecordError
from interp.plots.scales import FRAME, WHITE, blend_sign, readable_ink
from interp.plots.sheet import FONT, INK
from interp.results.feature import TOP, LatentExamples, LatentProfile
from interp.results.token_text import visible_token

_SOFT = "rgb(95,95,95)"


def latent_html(profile: LatentProfile, examples: int = 8) -> str:
    """Up to ``examples`` of the largest and of each interval of quantiles, as HTML for a notebook or a page.

    A token's background is white at 0 and blue at the latent's largest activation; hovering shows the activation.
    The token that an example is about is framed. Everything is escaped. Raises :class:`RecordError` for fewer
    than one example.
    """
    if examples < 1:
        raise RecordError(f"at least one example must be shown; got examples={examples}.")
    label = "" if profile.label is None else f" “{profile.label}”"
    title = html.escape(f"{profile.name}{label}")
    facts = html.escape(" · ".join(_facts(profile)))
    groups = "\n".join(_group_html(group, profile.maximum, examples) for group in profile.examples)
    # both classes keep a notebook from setting $x$ as mathematics
    return (
        f'<div class="tex2jax_ignore mathjax_ignore" style="background:white;color:{INK};'
        f'font:13px/1.75 {FONT};padding:10px 14px;border-radius:4px;text-align:left">\n'
        f'<div style="font-weight:600;font-size:14px">{title}</div>\n'
        f'<div style="color:{_SOFT};font-size:12px">{facts}</div>\n{_logits_html(profile)}{groups}\n</div>'
    )


def _facts(profile: LatentProfile) -> list[str]:
    if profile.is_dead:
        return [profile.provenance.summary(), f"never fired on {profile.n_tokens:,} tokens"]
    facts = [
        profile.provenance.summary(),
        f"fires on {profile.density:.3%} of {profile.n_tokens:,} tokens",
        f"largest activation {profile.maximum:.3g}, mean {profile.mean:.3g}",
    ]
    return [*facts, *(f"F1 {name} {value:.2f}" for name, value in profile.f1.items())]


def _logits_html(profile: LatentProfile) -> str:
    if profile.logits is None:
        return ""
    rows = []
    for word, tokens in (("raises", profile.logits.raised_tokens), ("lowers", profile.logits.lowered_tokens)):
        shown = "&ensp;".join(html.escape(visible_token(token)) for token in tokens)
        rows.append(f'<div><span style="color:{_SOFT}">{word}</span>&ensp;{shown}</div>\n')
    return "".join(rows)


def _group_html(group: LatentExamples, maximum: float, examples: int) -> str:
    interval = f"quantiles {group.name}: {group.low:.3g} to {group.high:.3g}, {group.share:.0%} of firings"
    head = html.escape("largest activations, one a prompt" if group.name == TOP else interval)
    rows = "\n".join(_example_html(group, i, maximum) for i in range(min(examples, len(group))))
    return f'<div style="color:{_SOFT};font-size:12px;margin-top:6px">{head}</div>\n{rows}'


def _example_html(group: LatentExamples, i: int, maximum: float) -> str:
    values = group.activations[i].tolist()
    spans = [
        _token_html(token, values[pos], maximum, pos == int(group.peaks[i]))
        for pos, token in enumerate(group.tokens[i])
    ]
    where = html.escape(f"prompt {int(group.prompts[i])}, position {int(group.positions[i])}")
    return f'<div title="{where}">{"".join(spans)}</div>'


def _token_html(token: str, value: float, maximum: float, is_peak: bool) -> str:
    missing = math.isnan(value)
    color = WHITE if missing else blend_sign(max(value, 0.0) / maximum)
    shown = visible_token(token)
    says = html.escape(f"{shown}  {'not read' if missing else f'{value:.3g}'}")
    rim = _SOFT if is_peak else FRAME if value > 0 else WHITE
    style = (
        f"display:inline-block;padding:0 2px;margin:0 1px;border-radius:2px;border:1px solid {rim};"
        f"background:{color};color:{readable_ink(color)};line-height:1.35"
    )
    return f'<span style="{style}" title="{says}">{html.escape(shown)}</span>'
