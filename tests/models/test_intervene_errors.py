"""What cannot be done is an error of ours, and no error leaves anything behind on the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import Specimen, specimen
from naive_interventions import random_prompts
from torch import Tensor

import interp
from interp.errors import InterventionError, SiteError
from interp.models.interventions import Intervention
from interp.types import Site


def _final(on: Specimen, tokens: Tensor, interventions: list[Intervention]) -> Tensor:
    with torch.no_grad(), interp.intervene(on.model, interventions):
        return on.model(tokens)


def _logits(on: Specimen, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return on.model(tokens)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_behind_an_error_in_a_hook(kind: Specimen, tokens: Tensor, error: type[BaseException]):
    """The fixture compares hooks and logits afterwards; here they go off in the middle of a forward."""

    def fail(part: Tensor) -> Tensor:
        raise error("stop")

    sites = [site for site in ("resid_mid[0]", "result[1]", "z[1.0]") if site[:-3] in kind.model.components]
    inner = [*map(interp.zero, sites), interp.apply("attn_out[1]", fail)]
    outer = interp.intervene(kind.model, interp.zero("z[0.1]"))
    with pytest.raises(error), outer, interp.intervene(kind.model, inner):
        kind.model(tokens)
    assert torch.equal(_logits(kind, tokens), _logits(kind, tokens))


def test_nothing_stays_behind_an_error_in_the_block(kind: Specimen, tokens: Tensor):
    with pytest.raises(ZeroDivisionError), interp.intervene(kind.model, interp.zero("result[1.0]")):
        kind.model(tokens)
        _ = 1 / 0


@pytest.mark.parametrize("bad", ["z[0.9]", "z[5]", "mlp_post[0].n99", "resid_mid[2]"])
def test_a_bad_site_in_a_list_installs_nothing(gpt2: Specimen, tokens: Tensor, bad: str):
    before = _logits(gpt2, tokens)
    with pytest.raises(SiteError), interp.intervene(gpt2.model, [interp.zero("z[0]"), interp.zero(bad)]):
        raise AssertionError("the block was entered")
    assert gpt2.model.active_edits == []
    assert not any(point._forward_hooks for point in gpt2.model.hook_points.values())
    assert not gpt2.model.module._forward_pre_hooks
    assert torch.equal(_logits(gpt2, tokens), before)


def test_blocks_may_end_in_another_order(gpt2: Specimen, tokens: Tensor):
    first, second = (interp.intervene(gpt2.model, interp.zero(site)) for site in ("z[0.1]", "z[0.2]"))
    with torch.no_grad():
        first.__enter__()
        second.__enter__()
        gpt2.model(tokens)
        first.__exit__(None, None, None)
        found = gpt2.model(tokens)
        second.__exit__(None, None, None)
    assert torch.equal(found, _final(gpt2, tokens, [interp.zero("z[0.2]")]))
    assert gpt2.model.active_edits == []


def test_other_hooks_on_the_model_are_left_alone(gpt2: Specimen, tokens: Tensor):
    point = gpt2.model.hook_points["blocks.0.attn.o.hook_in"]
    seen: list[float] = []
    handle = point.register_forward_hook(
        lambda module, inputs, output: seen.append(float(output.abs().sum()))
    )
    try:
        _final(gpt2, tokens, [interp.zero("z[0]")])
        _logits(gpt2, tokens)
        assert len(seen) == 2
        assert handle.id in point._forward_hooks
    finally:
        handle.remove()


BAD_SITES = [
    ("zz", SiteError, "unknown component 'zz'; did you mean 'z'"),
    ("resid_mids", SiteError, "did you mean 'resid_mid'"),
    ("z[2]", SiteError, "layer 2, but this gpt2 model has 2 layers"),
    ("z[0.4]", SiteError, r"head 4, but this gpt2 model has 4 heads \(0 to 3\)"),
    ("mlp_post[0].n52", SiteError, r"neuron 52, but .* has 52 neurons \(0 to 51\)"),
    (
        "mlp_pre_linear",
        SiteError,
        "a gpt2 model has no 'mlp_pre_linear' .its MLP is not gated.. It has: embed",
    ),
    ("mlp_out[0]:latent3", SiteError, "a coder must be attached"),
    ("z[0.1,0.2]", SiteError, "names 2 sites; make one intervention for each"),
    ("z#3", InterventionError, r"batch rows \[3\], but the batch has 3 rows"),
    ("z@NOWHERE", InterventionError, "unknown position label .* 'NOWHERE'.*pass labels=task.labels"),
    ("z@S3", InterventionError, "did you mean 'S2'"),
    ("z[0]@9", InterventionError, r"touched nothing: zero\(z\[0\]@9\) in layer 0"),
    ("z[0]@20:30", InterventionError, "touched nothing"),
    ("z[0]@gen", InterventionError, "touched nothing"),
    ("z[0]@-10", InterventionError, "counts 10 tokens back from the end, but row 0 has a prompt of 9"),
]


@pytest.mark.parametrize(("site", "error", "message"), BAD_SITES, ids=[site for site, _, _ in BAD_SITES])
def test_sites_that_are_not_there(
    gpt2: Specimen, tokens: Tensor, site: str, error: type[Exception], message: str
):
    labels = {"S2": torch.tensor([1, 2, 3])}
    with pytest.raises(error, match=message), interp.intervene(gpt2.model, interp.zero(site), labels=labels):
        gpt2.model(tokens)
    assert gpt2.model.active_edits == []


ABSENT = [
    ("gpt_neox", "resid_mid", "attention and MLP run in parallel"),
    ("attention_only", "mlp_out", "it is attention-only"),
    ("attention_only", "resid_mid", "has no 'resid_mid'"),
    ("llama", "k[0.2]", "kv head 2, but this llama model has 2 kv heads"),
    ("no_norm", "mlp_pre_linear", "its MLP is not gated"),
]


@pytest.mark.parametrize(("name", "site", "message"), ABSENT)
def test_components_a_family_does_not_have(tokens: Tensor, name: str, site: str, message: str):
    model = specimen(name).model
    with pytest.raises(SiteError, match=message):
        interp.capture(model, tokens, site)
    with pytest.raises(SiteError, match=message), interp.intervene(model, interp.zero(site)):
        model(tokens)


def test_a_block_without_a_forward_is_an_error(gpt2: Specimen):
    idle = interp.intervene(gpt2.model, interp.zero("z[0]"))
    with pytest.raises(InterventionError, match="no forward pass of the model ran"), idle:
        pass
    with pytest.raises(InterventionError, match="got no intervention"), interp.intervene(gpt2.model, []):
        pass


def test_one_idle_intervention_among_others_is_named(gpt2: Specimen, tokens: Tensor):
    both = [interp.zero("z[0]@1"), interp.zero("z[1]@40")]
    with pytest.raises(InterventionError, match=r"touched nothing: zero\(z\[1\]@40\) in layer 1\."):
        _final(gpt2, tokens, both)


BAD_VALUES = [
    (
        lambda: interp.replace("z[0.1]", torch.ones(8)),
        r"shape \(8,\); it must broadcast to \[batch, pos, d_head\]",
    ),
    (
        lambda: interp.add("resid_pre[0]", torch.ones(3, 9, 35)),
        r"broadcast to \[batch, pos, d_model\] = \(3, 9, 36\)",
    ),
    (lambda: interp.replace("resid_pre[0]", torch.ones(3, 7, 36)), "the source has 7 columns, the prompt 9"),
    (
        lambda: interp.replace("resid_pre[0]", torch.ones(3, 12, 36)),
        "the source has 12 columns, the prompt 9",
    ),
    (lambda: interp.apply("z[0]", lambda part: part[:, :4]), "apply at z"),
    (lambda: interp.project("z[0]", torch.ones(36)), "directions of 36 entries; the activation has 9"),
    (lambda: interp.zero(Site("z", 0).within(torch.ones(36))), "vectors of 36 entries; the activation has 9"),
    (lambda: interp.mean("pattern[0]", torch.ones(9)), "per position only"),
    (lambda: interp.mean("z[0.1]", torch.ones(4)), "mean at z"),
]


@pytest.mark.parametrize(("make", "message"), BAD_VALUES, ids=range(len(BAD_VALUES)))
def test_values_that_do_not_fit(gpt2: Specimen, tokens: Tensor, make: Any, message: str):
    with pytest.raises(InterventionError, match=message):
        _final(gpt2, tokens, [make()])
    assert gpt2.model.active_edits == []


@pytest.mark.parametrize(
    ("bounds", "message"), [({}, "min, max or both"), ({"min": 2.0, "max": 1.0}, "min 2.0 above max 1.0")]
)
def test_clamp_needs_bounds_that_hold_something(bounds: dict[str, float], message: str):
    with pytest.raises(InterventionError, match=message):
        interp.clamp("z[0]", **bounds)


@pytest.mark.parametrize(
    "directions", [torch.zeros(36), torch.ones(2, 36), torch.full((36,), torch.nan), torch.ones(2, 2, 36)]
)
def test_directions_that_span_nothing(directions: Tensor):
    with pytest.raises(SiteError):
        interp.project("resid_pre[0]", directions)


class TestSourcesOfOtherPrompts:
    """A cache is read column by column: prompts that lie elsewhere are refused, never misread."""

    @staticmethod
    def _cache(on: Specimen, columns: int, padding: str, rows: int = 3) -> Any:
        given = random_prompts(8, rows, columns, padding)
        return interp.capture(on.model, given.tokens, "resid_pre", attention_mask=given.mask)

    def test_other_padding(self, gpt2: Specimen):
        on = random_prompts(1, 3, 9, "left")
        replacing = interp.replace("resid_pre[1]", self._cache(gpt2, 9, "right"))
        message = r"row 0 of the source .* padded on the same side"
        with pytest.raises(InterventionError, match=message), interp.intervene(gpt2.model, replacing):
            gpt2.model(on.tokens, on.mask)

    def test_other_lengths_rows_and_columns(self, gpt2: Specimen, tokens: Tensor):
        cases = [
            (self._cache(gpt2, 9, "left"), "of equal length"),
            (self._cache(gpt2, 8, "none"), "the source has 8 columns, the prompt 9"),
            (self._cache(gpt2, 1, "none"), "the source has 1 columns, the prompt 9"),
            (self._cache(gpt2, 9, "none", rows=2), "the source has 2 rows, the batch 3"),
        ]
        for cache, message in cases:
            with pytest.raises(InterventionError, match=message):
                _final(gpt2, tokens, [interp.replace("resid_pre[1]", cache)])
        with pytest.raises(InterventionError, match="of equal length"):
            _final(gpt2, tokens, [interp.resample("resid_pre[1]", self._cache(gpt2, 9, "left"))])

    def test_one_row_serves_all(self, gpt2: Specimen, tokens: Tensor):
        cache = self._cache(gpt2, 9, "none", rows=1)
        found = _final(gpt2, tokens, [interp.replace("resid_pre[1]", cache)])
        torch.testing.assert_close(found, found[:1].expand_as(found))

    def test_resampling_needs_two_rows(self, gpt2: Specimen):
        with pytest.raises(InterventionError, match="at least two rows"):
            interp.resample("resid_pre[1]", self._cache(gpt2, 9, "none", rows=1))


def test_mean_patterns_and_left_padding_are_refused(gpt2: Specimen, tokens: Tensor):
    padded = random_prompts(1, 3, 9, "left")
    patterns = interp.capture(gpt2.model, tokens, "pattern")
    averaging = interp.intervene(gpt2.model, interp.mean("pattern[0]", patterns, per_position=True))
    with pytest.raises(InterventionError, match="padded on the left"), averaging:
        gpt2.model(padded.tokens, padded.mask)
    data = interp.capture(gpt2.model, padded.tokens, "pattern", attention_mask=padded.mask)
    with pytest.raises(InterventionError, match="data without padding"):
        _final(gpt2, tokens, [interp.mean("pattern[0]", data, per_position=True)])
