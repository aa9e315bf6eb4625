"""Records of checked circuits without a model, in sizes that break layouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from toy_circuits import TWO_LAYERS, make_circuit

from interp.results import (
    CircuitCheck,
    Completeness,
    Estimate,
    Faithfulness,
    HypothesisTest,
    KnockOut,
    Minimality,
    Provenance,
    RandomCurve,
)

MADE = Provenance(
    "mix<4>l & co", task="ioi", n_prompts=32, metric="logit difference", direction="noise", method="eap-ig",
    ablation="source", backend="wavefront",
)  # fmt: skip
PROMPTS = 4
UNDEFINED = Estimate(*[float("nan")] * 3)


def make_curve(kind: str, drawn: tuple[int, ...], like: str | None = None, draws: int = 3) -> RandomCurve:
    """Metrics from 0 to 2, more of it with more edges; some draws lose edges."""
    n = torch.tensor(drawn)[:, None] - torch.arange(draws)
    metric = n.clamp(min=0) / max(drawn) * 2 + 0.1 * torch.arange(draws)
    return RandomCurve(kind, like, drawn, n.clamp(min=0), metric)


def make_faithfulness(
    methods: tuple[str, ...] = ("exact", "eap-ig"),
    counts: tuple[int, ...] = (0, 3, 12, 46),
    n_total: int = 46,
    nulls: tuple[str, ...] = ("connected", "uniform"),
    **changes: Any,
) -> Faithfulness:
    """Full metric 3 and empty 1 on average; method ``i`` has ``count / n_total`` less ``i`` tenths of the gap."""
    shape = len(methods), len(counts)
    share = torch.tensor(counts) / n_total - 0.1 * torch.arange(len(methods))[:, None]
    spread = torch.linspace(-0.5, 0.5, PROMPTS)
    drawn = tuple(max(count, 1) for count in counts)
    curves = [
        make_curve(kind, drawn, m) for kind in nulls for m in (methods if kind == "degree" else (None,))
    ]
    fields = dict(
        methods=methods,
        fractions=tuple(max(count, 1) / n_total for count in counts),
        n_edges=torch.tensor(counts).expand(shape).contiguous(),
        n_total=n_total,
        per_prompt=(1 + 2 * share)[..., None] + spread,
        full=3 + spread,
        empty=1 + spread,
        low=share - 0.1,
        high=share + 0.2,
        cpr=tuple(Estimate(0.8 - 0.1 * i, 0.7, 0.9) for i in range(len(methods))),
        cmd=tuple(Estimate(0.2 + 0.1 * i, 0.1, 0.3) for i in range(len(methods))),
        confidence=0.95,
        provenance=MADE,
        nulls=tuple(curves),
    )
    return Faithfulness(**fields | changes)


def make_completeness(**changes: Any) -> Completeness:
    """Gap 2: nothing differs by 0, one node by 0.5, others by up to all of it."""
    sets = (
        KnockOut("nothing", ()),
        KnockOut("single", ("m0",)),
        KnockOut("single", ("a1.h0",)),
        KnockOut("random", ("m0", "a1.h0")),
        KnockOut("greedy", tuple(f"a{layer}.h{head}" for layer in range(4) for head in range(4))),
        KnockOut("group", ("m0",), "<b>movers</b> & $co$"),
    )
    level = torch.tensor([[3.0, 2.0, 2.5, 1.0, 1.0, 2.0], [3.0, 2.5, 2.5, 1.5, 3.0, 2.0]])
    spread = torch.linspace(-0.5, 0.5, PROMPTS)
    fields = dict(sets=sets, circuit=level[0, :, None] + spread, model=level[1, :, None] + spread)
    return Completeness(**fields | dict(full=3 + spread, empty=1 + spread, provenance=MADE) | changes)


def make_minimality(names: tuple[str, ...] = ("m0", "a0.h1", "m1"), **changes: Any) -> Minimality:
    """Of a gap of 2 the first changes 1, the last nothing; the second is against the answer."""
    n = len(names)
    alone = -torch.linspace(1, 0, n)[:, None].expand(n, PROMPTS).clone()
    if n > 2:
        alone[1] = 0.4
    most = alone.abs().mean(1)
    most[-1] = 0.002
    fields = dict(
        of="nodes", names=names, alone=alone, most=most, beside=((),) * (n - 1) + (("m0", "a0.h1"),), n_sets=9,
        full=torch.full((PROMPTS,), 3.0), empty=torch.ones(PROMPTS), provenance=MADE,
    )  # fmt: skip
    return Minimality(**fields | changes)


def make_test(name: str = "sufficiency", p: float = 0.01, **changes: Any) -> HypothesisTest:
    reference = torch.tensor([0.4, 0.6]) if name == "equivalence" else torch.linspace(0, 1, 30) ** 4
    fields = dict(
        name=name,
        null=f"nothing of the {name} <b>test</b> & $co$",
        statistic="share of prompts where the circuit is ahead",
        items=("circuit",),
        observed=torch.tensor([0.3]),
        p_values=torch.tensor([p], dtype=torch.float64),
        reference=reference,
        alpha=0.05,
        n=30,
        correction="none",
        provenance=replace(MADE, method=f"{name} test"),
    )
    return HypothesisTest(**fields | changes)


def make_minimality_test(**changes: Any) -> HypothesisTest:
    items = ("input->m0", "a1.h0->m1", "m0->logits")
    observed, p = torch.tensor([2.0, 0.0, 0.5]), torch.tensor([1.0, 1e-12, 0.2])
    fields = dict(items=items, observed=observed, p_values=p, correction="holm")
    return make_test("minimality", **fields | changes)


def make_check(**changes: Any) -> CircuitCheck:
    circuit = make_circuit(TWO_LAYERS, ["input->m0", "m0->m1", "m1->logits"])
    fields = dict(
        circuit=circuit,
        faithfulness=make_faithfulness(("toy",), (3,), nulls=("connected", "degree", "uniform")),
        completeness=make_completeness(),
        minimality=make_minimality(),
        tests=(
            make_test("equivalence", 0.2),
            make_test("independence", 0.001),
            make_minimality_test(),
            make_test("sufficiency"),
            make_test("partial necessity", 0.9),
        ),
        provenance=MADE,
    )
    return CircuitCheck(**fields | changes)


def check_gallery() -> dict[str, Any]:
    """For the pictures."""
    many = tuple(f"relevance:<b>{i}</b>" for i in range(9))
    equal = torch.ones(PROMPTS)
    return {
        "faithfulness": make_faithfulness(),
        "faithfulness many": make_faithfulness(many, tuple(2**i for i in range(16)), 32768, ("degree",)),
        "faithfulness one": make_faithfulness(
            ("toy",), (3,), nulls=("uniform",), cpr=(UNDEFINED,), cmd=(UNDEFINED,)
        ),
        "faithfulness nothing": make_faithfulness(counts=(0, 0), nulls=()),
        "faithfulness equal": make_faithfulness(full=equal, empty=equal),
        "completeness": make_completeness(),
        "completeness equal": make_completeness(full=equal, empty=equal),
        "minimality": make_minimality(),
        "minimality many": make_minimality(
            tuple(f"a{i}.h0->m{i}@<END>" for i in range(90)), of="edges", n_sets=1
        ),
        "test equivalence": make_test("equivalence"),
        "test independence": make_test("independence"),
        "test minimality": make_minimality_test(),
        "test of nothing": make_test("sufficiency", reference=torch.zeros(3), observed=torch.zeros(1)),
        "circuit check": make_check(),
    }
