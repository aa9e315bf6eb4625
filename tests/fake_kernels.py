"""Made-up timings of kernels: of many operations, of one case, and where nothing is computed."""

from __future__ import annotations

from typing import Any

from interp.results import KernelTiming, KernelTimings, Provenance

COPY, PRODUCTS = 2.8e12, {"bfloat16": 7.2e14, "float32": 5.0e13}
OPS = ("inject", "prefix_attention", "readout", "attribute", "relevance", "edge_scores", "coder_step")
MADE = Provenance(model="mix<4>l & co", task="ioi", n_prompts=32)


def make_timing(**changes: Any) -> KernelTiming:
    """A kernel that moves 28 MB in twice the time of a copy."""
    known: dict[str, Any] = dict(op="readout", case="forward", shape="rows=512 d=768", dtype="bfloat16")
    known |= dict(implementation="kernel", n_bytes=28e6, n_flops=5.6e8, p20=1.9e-5, p50=2e-5, p80=2.1e-5)
    known |= dict(copy_rate=COPY, matmul_rate=PRODUCTS[changes.get("dtype", "bfloat16")], error=1e-3)
    return KernelTiming(**known | changes)


def make_timings(*timings: KernelTiming, device: str = "a <GPU> & co") -> KernelTimings:
    """A record of these timings."""
    return KernelTimings(timings or (make_timing(),), device, MADE)


def make_case(share: float, slower: dict[str, float], **changes: Any) -> list[KernelTiming]:
    """A kernel that reaches a share of the roof, and others so many times slower."""
    like = make_timing(**changes)
    best = like.roof_share * like.p50
    found = {"kernel": 1.0, **slower}
    return [
        make_timing(
            **changes,
            implementation=name,
            p20=0.97 * times * best / share,
            p50=times * best / share,
            p80=1.1 * times * best / share,
        )
        for name, times in found.items()
    ]


def make_many() -> KernelTimings:
    """Every operation at several shapes in two dtypes; one computes nothing."""
    timings: list[KernelTiming] = []
    for i, op in enumerate(OPS):
        for j, (rows, dtype) in enumerate([(512, "bfloat16"), (4096, "bfloat16"), (512, "float32")]):
            n_bytes = 4e6 * (i + 1) * (rows / 512)
            for case, intensity in (("forward", 0.6 * 3**i), ("backward", 1.1 * 3**i)):
                timings += make_case(
                    0.93 - 0.06 * ((i + 2 * j) % 5),
                    {"eager": 2.1 + i, "compiled": 1.2 + 0.3 * j, "a <peer> $": 1.5},
                    op=op,
                    case=case,
                    shape=f"rows={rows} d=768",
                    dtype=dtype,
                    n_bytes=n_bytes,
                    n_flops=0.0 if (op, case) == ("inject", "forward") else intensity * n_bytes,
                )
    return make_timings(*timings)


def kernel_gallery() -> dict[str, Any]:
    """By the name that the tests of all figures list."""
    odd = make_case(1.2, {"eager": 0.9}, op="<b>$op$</b>", case="<i>", shape="&amp;" * 30)
    return {
        "roofline": make_many(),
        "roofline of one": make_timings(),
        "roofline above the roof": make_timings(*odd),
        "roofline of moves": make_timings(make_timing(n_flops=0.0)),
    }
