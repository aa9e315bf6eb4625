"""The peer: ``transformer_lens.patching`` on the same weights, in the ways that people run it.

``HookedTransformer`` is the class that its patching is written and documented for; transformer-lens 4
no longer has it and leaves the ``TransformerBridge``. Both run with autograd on, as torch has it by
default and the tutorials leave it, and without. One cache a model is made beforehand and not timed.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.bench.cases import SITES, Shape, wrap_gpt2
from interp.bench.clock import time_call
from interp.errors import BenchError
from interp.tasks import PromptPairs

HOOKED = "HookedTransformer"
BRIDGE = "TransformerBridge"
AXES = dict(zip(SITES, (("layer", "pos"), ("layer", "head")), strict=True))
"""Indices of a site, as columns of the peer's ``index_df``."""

Index = tuple[int, int]


@dataclass(frozen=True)
class PeerRun:
    """Values of some sites or all, in their order, and the seconds they took."""

    values: Float[Tensor, " site"]
    seconds: float

    @property
    def n_sites(self) -> int:
        return len(self.values)


class Peer:
    """One of the peer's models with a cache of the clean prompts."""

    def __init__(self, kind: str, module: Any, task: PromptPairs) -> None:
        self.kind = kind
        self.module = module
        self.task = task
        with torch.no_grad():
            _, self.cache = module.run_with_cache(task.clean)

    @torch.no_grad()
    def logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Of the corrupted prompts."""
        return self.module(self.task.corrupted)

    def metric(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, ""]:
        """Mean over prompts of answer minus wrong at the last position."""
        rows = torch.arange(len(self.task), device=logits.device)
        answers, wrong = self.task.answers[:, 0], self.task.wrong[:, 0]
        return (logits[rows, -1, answers] - logits[rows, -1, wrong]).mean()

    def run_all(self, site: str, autograd: bool) -> PeerRun:
        """The peer's own sweep over every site, as it is."""
        return self._timed(site, autograd)

    def run_some(
        self, site: str, indices: Sequence[Index], autograd: bool, seconds: float = float("inf")
    ) -> PeerRun:
        """One site after another, until the seconds are used up; at least one."""
        import pandas as pd

        runs: list[PeerRun] = []
        for index in indices:
            frame = pd.DataFrame([index], columns=list(AXES[site]))
            runs.append(self._timed(site, autograd, index_axis_names=None, index_df=frame))
            if sum(run.seconds for run in runs) >= seconds:
                break
        return PeerRun(torch.cat([run.values for run in runs]), sum(run.seconds for run in runs))

    def _timed(self, site: str, autograd: bool, **options: Any) -> PeerRun:
        values: list[Tensor] = []
        sweep = partial(_sweep_of(site), self.module, self.task.corrupted, self.cache, self.metric, **options)
        # its progress bar can't be turned off
        with contextlib.redirect_stderr(io.StringIO()), torch.set_grad_enabled(autograd):
            seconds = time_call(lambda: values.append(sweep()), self.task.clean.device)
        return PeerRun(values[0].detach().flatten(), seconds)


def build_peers(hf: Any, shape: Shape, task: PromptPairs) -> dict[str, Peer]:
    """The peer's models by kind, the one its patching is documented for first.

    ``hf`` is wrapped in place, so it must not be the module of the model that it is compared to.
    """
    hooked = _build_hooked_transformer(hf, shape)
    peers = {} if hooked is None else {HOOKED: Peer(HOOKED, hooked, task)}
    peers[BRIDGE] = Peer(BRIDGE, wrap_gpt2(hf, shape).bridge, task)
    return peers


def _sweep_of(site: str) -> Callable[..., Tensor]:
    from transformer_lens import patching

    sweeps = {
        "resid_pre": patching.get_act_patch_resid_pre,
        "z": patching.get_act_patch_attn_head_out_all_pos,
    }
    return sweeps[site]


def _build_hooked_transformer(hf: Any, shape: Shape) -> Any:
    """The same weights, raw: no folded norm, nothing centred. ``None`` where there is no such class."""
    import transformer_lens

    if not hasattr(transformer_lens, HOOKED):
        return None
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = transformer_lens.HookedTransformerConfig(
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        d_head=shape.d_model // shape.n_heads,
        d_mlp=4 * shape.d_model,
        d_vocab=shape.d_vocab,
        n_ctx=hf.config.n_positions,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=hf.config.layer_norm_epsilon,
        device=str(next(hf.parameters()).device),
        init_weights=False,
    )
    with _without_warnings():
        module = transformer_lens.HookedTransformer(config)
    # GPT-2 has no bias here, and the weights begin uninitialised
    weights = {**convert_gpt2_weights(hf, config), "unembed.b_U": torch.zeros(shape.d_vocab)}
    loaded = module.load_state_dict(weights, strict=False)
    lost = [name for name in loaded.missing_keys if not name.endswith((".mask", ".IGNORE"))]
    if lost or loaded.unexpected_keys:
        raise BenchError(
            f"the weights do not fit the peer's {HOOKED}: missing {lost}, unexpected {loaded.unexpected_keys}; "
            "this version of transformer-lens lays them out in another way."
        )
    return module.eval()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
