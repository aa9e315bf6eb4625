"""Records of coders and their latents without a model, with tokens that are markup, in sizes that break layouts."""

from __future__ import annotations

import math
from typing import Any

import torch

from interp.results import Provenance
from interp.results.coder_history import CoderHistory, CoderLog, CoderPareto
from interp.results.coder_profile import CoderProfile
from interp.results.feature import TOP, LatentExamples, LatentLogits, LatentNeighbours, LatentProfile

MADE = Provenance("mix<4>l & co", task="ioi", n_prompts=32, seed=3, notes=("coder at <b>mlp_out</b>",))
WORDS = ("<s>", " a", "</script>", "\n", " $5", "<b>store</b>", " &", " %{x}")


def make_examples(
    name: str = TOP, low: float = 0.0, high: float = 4.0, n: int = 3, width: int = 5, share: float = 1.0
) -> LatentExamples:
    """Windows of ``width``, ``width - 1`` ... tokens with the peak at the second; the first token was not read."""
    lengths = [max(width - i, 2) for i in range(n)]
    activations = torch.zeros(n, width)
    for i, length in enumerate(lengths):
        activations[i, 0] = activations[i, length:] = math.nan
        activations[i, 1] = high - (high - low) * i / (n + 1)
    return LatentExamples(
        name=name,
        low=low,
        high=high,
        share=share,
        tokens=tuple(
            tuple(WORDS[(i + j) % len(WORDS)] for j in range(length)) for i, length in enumerate(lengths)
        ),
        activations=activations,
        peaks=torch.ones(n, dtype=torch.long),
        prompts=torch.arange(n) * 7,
        positions=torch.arange(n) + 1,
    )


def make_latent(latent: int = 17, **changes: Any) -> LatentProfile:
    """Fires on one of eight tokens, up to 4."""
    near = LatentNeighbours(torch.tensor([3, 5]), torch.tensor([0.5, -0.25]))
    known: dict[str, Any] = dict(
        site="mlp_out[2]",
        latent=latent,
        density=0.125,
        n_tokens=800,
        mean=1.5,
        maximum=4.0,
        counts=torch.tensor([40, 30, 20, 10]),
        edges=torch.linspace(0, 4, 5),
        examples=(
            make_examples(),
            make_examples("50–100 %", 1.25, 4.0, 2, share=0.5),
            make_examples("0–50 %", 0.0, 1.25, 2, share=0.5),
        ),
        neighbours=near,
        coactive=LatentNeighbours(torch.tensor([8]), torch.tensor([0.75])),
        alignment=0.625,
        provenance=MADE,
        logits=LatentLogits(
            (" Mary", "<s>"), torch.tensor([2.0, 1.0]), ("&", "\n"), torch.tensor([-3.0, -0.5])
        ),
    )
    return LatentProfile(**known | changes)


def make_dead(latent: int = 0, **changes: Any) -> LatentProfile:
    """Never fires."""
    none = LatentNeighbours(torch.zeros(0, dtype=torch.long), torch.zeros(0))
    known: dict[str, Any] = dict(
        density=0.0,
        mean=math.nan,
        maximum=math.nan,
        counts=torch.zeros(4, dtype=torch.long),
        examples=(),
        coactive=none,
    )
    return make_latent(latent, **known | changes)


def make_profile(
    d_sae: int = 32, latents: tuple[LatentProfile, ...] | None = None, **changes: Any
) -> CoderProfile:
    """Latent i fires on ``i / (2 d_sae)`` of 800 tokens, so that latent 0 is dead."""
    density = torch.arange(d_sae) / (2 * d_sae)
    known: dict[str, Any] = dict(
        site="mlp_out[2]",
        target_site="mlp_out[2]",
        architecture="topk<k>",
        d_in=8,
        density=density,
        mean=density.where(density > 0, torch.nan) * 3,
        maximum=density.where(density > 0, torch.nan) * 9,
        l0_counts=torch.tensor([100, 200, 300, 200]),
        latents=(make_dead(0), make_latent(17, label="<names> & co"), make_latent(20))
        if latents is None
        else latents,
        provenance=MADE,
        alignment=torch.linspace(-0.2, 0.9, d_sae),
    )
    return CoderProfile(**known | changes)


def make_history(names: tuple[str, ...] = ("topk<b>",), rows: int = 5, **measures: float) -> CoderHistory:
    """The loss of coder i in row j is ``(i + 1) / (j + 1)``; other measures as given in every row."""
    log = CoderLog(names)
    for j in range(rows):
        figures = {
            name: {
                "loss": (i + 1) / (j + 1),
                "loss:auxk": 0.1 * (i + 1) / (j + 1),
                "l0": 16.0 + i + j,
                "fvu": 0.9 / (j + 1),
                "dead_frac": 0.01 * j,
                "learning_rate": 1e-3 / (j + 1),
                "k": 16.0,
                **measures,
            }
            for i, name in enumerate(names)
        }
        log.append(1000 * (j + 1), figures)
    return log.record(MADE)


def make_pareto(seeds: int = 3, ks: tuple[int, ...] = (8, 16, 32), **changes: Any) -> CoderPareto:
    """Two architectures, of which the second is better at every k."""
    rows = [
        dict(
            name=f"{a}<k> {k}", architecture=f"{a}<k>", seed=s, l0=k * (1 + 0.01 * s),
            fvu=(0.5 - 0.1 * i) / k + 0.001 * s, ce_recovered=1 - (0.5 - 0.1 * i) / k - 0.001 * s,
        )
        for i, a in enumerate(("topk", "jump")) for k in ks for s in range(seeds)
    ]  # fmt: skip
    return CoderPareto.from_rows([row | changes for row in rows], MADE)


def latent_gallery() -> dict[str, Any]:
    """By the name that the tests of all figures list."""
    many = tuple(f"coder {i} & co" for i in range(8))
    heads = torch.tensor([0.5, 0.25, 0.125, 0.125])
    return {
        "latent": make_latent(label="a <label> & $more$"),
        "latent dead": make_dead(),
        "latent of heads": make_latent(head_shares=heads, f1={"tense <b>": 0.5}, alignment=math.nan),
        "latent without logits": make_latent(logits=None),
        "coder": make_profile(),
        "coder large": make_profile(30_000, l0_counts=torch.arange(700)),
        "coder dead": make_profile(
            4, (), density=torch.zeros(4), l0_counts=torch.tensor([800]), alignment=torch.zeros(4)
        ),
        "coder across sites": make_profile(target_site="mlp_out[3]", alignment=None, latents=()),
        "training": make_history(),
        "training many": make_history(many, rows=200, extra=2.0),
        "training one row": make_history(rows=1),
        "training nothing": CoderLog(["one"]).record(MADE),
        "training unmeasured": make_history(fvu=math.nan, dead_frac=math.nan),
        "pareto": make_pareto(),
        "pareto one": make_pareto(1, (16,), ce_recovered=math.nan),
        "pareto equal": make_pareto(2, l0=0.0, fvu=0.5),
    }
