"""Capture: values, gradients, parts by name, streams over data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_zoo import Specimen, specimen
from naive_interventions import random_prompts
from torch import Tensor

import interp
from interp.errors import ModelError, SiteError
from interp.models.cache import ActivationCache
from interp.types import HEAD_COMPONENTS, NEURON_COMPONENTS, PATTERN_COMPONENTS, Site, Span

LABELS = {"S": torch.tensor([1, 4, 2]), "IO": torch.tensor([0, 3, 3])}


def one_layer(component: str, layer: int) -> Site:
    return Site(component, None if component == "embed" else layer)


def loss_of(logits: Tensor) -> Tensor:
    """A number a row, of several positions, far from linear."""
    return logits.log_softmax(-1)[:, [3, -1], 7].sum(-1) * logits[:, -1, 2]


def test_values_do_not_depend_on_what_else_is_captured(kind: Specimen, tokens: Tensor):
    everything = interp.capture(kind.model, tokens, kind.model.components)
    for component in kind.model.components:
        alone = interp.capture(kind.model, tokens, component)
        assert torch.equal(alone[component], everything[component]), component
        assert torch.equal(alone.logits, everything.logits)
    assert set(everything) == set(kind.model.components)


@pytest.mark.parametrize("component", ["embed", "resid_pre", "z", "result", "resid_mid", "mlp_in", "mlp_out"])
def test_without_logits_nothing_above_the_last_site_runs(kind: Specimen, tokens: Tensor, component: str):
    if component not in kind.model.components:
        return
    site, last = one_layer(component, 0), kind.model.traits.n_layers - 1
    full = interp.capture(kind.model, tokens, site)
    ran: list[str] = []
    above = kind.model.hook_points[
        kind.model.family.hook_names(kind.model.traits)["attn_out"].format(layer=last)
    ]
    handle = above.register_forward_hook(lambda *_: ran.append("above"))
    try:
        short = interp.capture(kind.model, tokens, site, unembed=False)
        assert torch.equal(short[site], full[site])
        assert short.logits is None and not ran and last > 0
        # an intervention up there must have its effect
        with interp.intervene(kind.model, interp.zero(one_layer("attn_out", last))):
            again = interp.capture(kind.model, tokens, site, unembed=False)
        assert torch.equal(again[site], full[site]) and ran == ["above"]
    finally:
        handle.remove()
    assert torch.equal(interp.capture(kind.model, tokens, site).logits, full.logits)


def test_captured_values_are_those_of_the_forward(kind: Specimen, tokens: Tensor):
    """Nothing later in the forward writes into a captured tensor: copies made in time are equal."""
    copies: dict[str, Tensor] = {}

    def keep(component: str) -> Callable[[Tensor], Tensor]:
        def function(part: Tensor) -> Tensor:
            copies[component] = part.detach().clone()
            return part

        return function

    names = [name for name in kind.model.components if name != "result"]
    with torch.no_grad():
        edits = [interp.apply(one_layer(name, 1), keep(name)) for name in names]
        with interp.intervene(kind.model, edits):
            kind.model(tokens)
        cache = interp.capture(kind.model, tokens, names)
    for name in names:
        found = cache[one_layer(name, 1)]
        torch.testing.assert_close(found, copies[name], atol=2e-5, rtol=1e-5)


def test_result_is_z_through_w_o(kind: Specimen, tokens: Tensor):
    cache = interp.capture(kind.model, tokens, ["z", "result"])
    for layer, weights in enumerate(kind.model.weights.layers):
        expected = torch.einsum("bphd,hdm->bphm", cache["z"][layer], weights.W_O)
        torch.testing.assert_close(cache[f"result[{layer}]"], expected)
        head = cache["z"][layer][:, :, 2] @ weights.W_O[2]
        torch.testing.assert_close(cache[f"result[{layer}.2]"], head, atol=1e-5, rtol=1e-5)


class TestGradients:
    """Three routes to each gradient: captured; to a probe that is added there; the naive model's."""

    def test_at_every_component_of_every_layer(self, kind: Specimen, tokens: Tensor):
        cache = interp.capture(kind.model, tokens, kind.model.components, gradients_of=loss_of)
        probes: dict[tuple[str, int], Tensor] = {}

        def edit(place: tuple[str, int]) -> Callable[[Tensor], Tensor]:
            def add_probe(value: Tensor) -> Tensor:
                probes[place] = torch.zeros_like(value, requires_grad=True)
                return value + probes[place]

            return add_probe

        places = [
            (name, layer) for name in kind.model.components for layer in ([0] if name == "embed" else [0, 1])
        ]
        logits = kind.naive(tokens, edits={place: edit(place) for place in places})
        found = torch.autograd.grad(loss_of(logits).sum(), [probes[place] for place in places])
        for place, expected in zip(places, found, strict=True):
            site = one_layer(*place)
            gradient = cache.grads[site]
            assert gradient.shape == cache[site].shape
            size = float(expected.abs().max())
            assert size > 1e-6, place
            # a masked score has none, whatever the formula for the mask gives
            error = float((gradient - expected).abs().max()) / size
            assert error < 2e-4, (place, error)
            self._check_probe(kind, tokens, site, gradient)

    @staticmethod
    def _check_probe(kind: Specimen, tokens: Tensor, site: Site, gradient: Tensor) -> None:
        probe = torch.zeros_like(gradient, requires_grad=True)
        with interp.intervene(kind.model, interp.add(site, probe)):
            loss = loss_of(kind.model(tokens)).sum()
        (found,) = torch.autograd.grad(loss, probe)
        error = float((found - gradient).abs().max()) / float(gradient.abs().max())
        assert error < 2e-5, (site, error)

    def test_with_padding_they_are_each_prompt_s_own(self, kind: Specimen):
        prompts = random_prompts(4, 3, 9, "left")
        sites = ["resid_pre", "z", "result"]

        def last(logits: Tensor) -> Tensor:
            return logits[:, -1].log_softmax(-1)[:, 5]

        batched = interp.capture(
            kind.model, prompts.tokens, sites, attention_mask=prompts.mask, gradients_of=last
        )
        for row in range(3):
            real = prompts.real[row]
            alone = interp.capture(kind.model, prompts.tokens[row][real][None], sites, gradients_of=last)
            for site in sites:
                found = batched.grads[site][:, row][:, real]
                torch.testing.assert_close(found, alone.grads[site][:, 0], atol=2e-5, rtol=1e-3)

    @pytest.mark.parametrize("component", ["result", "resid_mid", "z", "attn_out", "pattern"])
    def test_they_go_back_through_an_edit(self, kind: Specimen, tokens: Tensor, component: str):
        """Upstream of an edit, the gradient is that of the edited model written out."""
        if component not in kind.model.components:
            return
        probe = torch.zeros(3, 9, 36, dtype=torch.float64, requires_grad=True)
        edits = {
            ("resid_pre", 0): lambda value: value + probe,
            (component, 1): lambda value: value * value.sigmoid(),
        }
        (expected,) = torch.autograd.grad(loss_of(kind.naive(tokens, edits=edits)).sum(), probe)
        squash = interp.apply(Site(component, 1), lambda part: part * part.sigmoid())
        with interp.intervene(kind.model, squash):
            cache = interp.capture(kind.model, tokens, "resid_pre", gradients_of=loss_of)
        error = float((cache.grads["resid_pre"][0] - expected).abs().max() / expected.abs().max())
        assert error < 2e-4

    def test_under_interventions_they_are_of_what_was_left(self, kind: Specimen, tokens: Tensor):
        """Upstream of an edit the gradient goes through it; at a replaced site it stays."""
        with interp.intervene(kind.model, [interp.scale("resid_pre[1]", 0.0), interp.zero("result[1.0]")]):
            cache = interp.capture(kind.model, tokens, ["embed", "resid_pre", "result"], gradients_of=loss_of)
        assert cache["resid_pre[1]"].abs().max() == 0
        assert cache["result[1.0]"].abs().max() == 0
        assert cache.grads["embed"].abs().max() == 0
        assert cache.grads["resid_pre[0]"].abs().max() == 0
        assert cache.grads["resid_pre[1]"].abs().max() > 0
        assert cache.grads["result[1.0]"].abs().max() > 0

    def test_nothing_is_left_on_the_parameters(self, gpt2: Specimen, tokens: Tensor):
        cache = interp.capture(gpt2.model, tokens, ["z", "result"], gradients_of=loss_of)
        assert all(parameter.grad is None for parameter in gpt2.model.parameters())
        held = [cache["z"], cache["result"], cache.logits, cache.grads["z"], cache.grads["result"]]
        assert not any(tensor.requires_grad for tensor in held)

    def test_they_come_under_no_grad_and_with_frozen_weights(self, tokens: Tensor):
        from model_zoo import make_bare

        model = interp.load_model(make_bare("llama"))
        expected = interp.capture(model, tokens, ["embed", "z"], gradients_of=loss_of)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        with torch.no_grad():
            found = interp.capture(model, tokens, ["embed", "z"], gradients_of=loss_of)
            assert not torch.is_grad_enabled()
        for site in ("embed", "z"):
            assert torch.equal(found.grads[site], expected.grads[site])
            assert not found[site].requires_grad

    def test_without_them_a_running_graph_is_kept(self, gpt2: Specimen, tokens: Tensor):
        """Captured tensors can be differentiated by whoever is recording anyway."""
        cache = interp.capture(gpt2.model, tokens, "resid_post[1]@-1")
        weight = next(gpt2.model.parameters())
        (gradient,) = torch.autograd.grad(cache["resid_post[1]@-1"].sum(), weight)
        assert gradient.abs().max() > 0
        with torch.no_grad():
            assert not interp.capture(gpt2.model, tokens, "z")["z"].requires_grad

    def test_a_site_the_loss_does_not_see_has_zeros(self, gpt2: Specimen, tokens: Tensor):
        cache = interp.capture(gpt2.model, tokens, "z", gradients_of=lambda logits: logits[:, 2].sum(-1))
        assert cache.grads["z@3:"].abs().max() == 0
        assert cache.grads["z@:3"].abs().max() > 0


class TestParts:
    """Any part of a captured site, by its name, is what indexing by hand gives."""

    def test_by_hand(self, gpt2: Specimen, tokens: Tensor):
        cache = interp.capture(
            gpt2.model, tokens, ["resid_pre", "z", "pattern", "mlp_post", "embed"], labels=LABELS
        )
        z, rows = cache["z"], torch.arange(3)
        assert z.shape == (2, 3, 9, 4, 9)
        for name, expected in {
            "z[1]": z[1],
            "z[1.2]": z[1, :, :, 2],
            "z[*.2]": z[:, :, :, 2],
            "z[1.2]@-1": z[1, :, -1, 2],
            "z[1.2]@2:4": z[1, :, 2:4, 2],
            "z[1.2]@2:3": z[1, :, 2:3, 2],
            "z@S": z[:, rows, LABELS["S"]],
            "z[0]@END": z[0, :, 8],
            "z[0]@7:": z[0, :, 7:],
            "z[0]@:-7": z[0, :, :2],
            "z[0]@1,5#0,2": z[0][[0, 2]][:, [1, 5]],
            "z[0]#1": z[0, 1:2],
            "z[0]@all": z[0],
            "embed@3": cache["embed"][:, 3],
            "mlp_post[1].n3,50": cache["mlp_post"][1][..., [3, 50]],
            "mlp_post[1].n3@IO": cache["mlp_post"][1][rows, LABELS["IO"]][..., [3]],
            "pattern[0.1]": cache["pattern"][0, :, 1],
            "pattern[0.1]@5": cache["pattern"][0, :, 1, 5],
            "pattern[*.3]@2:4": cache["pattern"][:, :, 3, 2:4],
            "pattern[1]@S": cache["pattern"][1][rows, :, LABELS["S"]],
        }.items():
            assert torch.equal(cache[name], expected), name
            assert name in cache

    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_captured_alone_or_cut_from_the_whole(self, data: st.DataObject, kind: Specimen):
        padding = data.draw(st.sampled_from(["none", "left", "right"]))
        prompts = random_prompts(2, 3, 9, padding)
        whole = interp.capture(
            kind.model, prompts.tokens, kind.model.components, attention_mask=prompts.mask, labels=LABELS
        )
        component = data.draw(st.sampled_from(kind.model.components))
        layer = None if component == "embed" else data.draw(st.sampled_from([None, 1]))
        site = Site(
            component,
            layer,
            data.draw(st.sampled_from([None, 1])) if component in HEAD_COMPONENTS else None,
            data.draw(st.sampled_from([None, (2,), (-1,), ("S",), ("END",), (Span(-3, -1),), (0, 3)])),
            data.draw(st.sampled_from([None, (4, 1)])) if component in NEURON_COMPONENTS else None,
            rows=data.draw(st.sampled_from([None, (1,), (2, 0)])),
        )
        if component not in PATTERN_COMPONENTS and site.neurons is None and data.draw(st.booleans()):
            d = whole[component].shape[-1]
            site = site.within(torch.randn(2, d, generator=torch.Generator().manual_seed(1)))
        alone = interp.capture(kind.model, prompts.tokens, site, attention_mask=prompts.mask, labels=LABELS)
        torch.testing.assert_close(alone[site], whole[site])
        torch.testing.assert_close(whole[site], self._by_hand(whole, site, prompts.real))

    def _by_hand(self, whole: ActivationCache, site: Site, real: Tensor) -> Tensor:
        value = whole[Site(site.component, site.layer)]
        lead = 1 if site.layer is None and site.component != "embed" else 0
        value = value.movedim(lead, 0)  # rows first
        found = []
        for row in range(3) if site.rows is None else site.rows:
            cut = value[row]
            if site.component in PATTERN_COMPONENTS:
                cut = cut.movedim(lead + 1, lead)  # destination before head
            if site.positions is not None:
                columns = real[row].nonzero()[:, 0].tolist()
                at: list[int] = []
                for position in site.positions:
                    if isinstance(position, Span):
                        at += list(range(len(columns)))[position.start : position.stop]
                    else:
                        at.append(
                            int(LABELS["S"][row])
                            if position == "S"
                            else -1
                            if position == "END"
                            else position
                        )
                single = len(at) == 1 and not isinstance(site.positions[0], Span)
                index = columns[at[0]] if single else [columns[p] for p in at]
                cut = cut[(slice(None),) * lead + (index,)]
            else:
                single = False
            if site.head is not None:
                cut = cut.select(lead + (0 if single else 1), site.head)
            elif site.component in PATTERN_COMPONENTS and not single:
                cut = cut.movedim(lead, lead + 1)
            if site.neurons:
                cut = cut[..., list(site.neurons)]
            if site.subspace is not None:
                cut = cut @ site.subspace.T
            found.append(cut)
        return torch.stack(found).movedim(0, lead)

    def test_subspaces_are_told_apart(self, gpt2: Specimen, tokens: Tensor):
        """Two subspaces of one site, and the site itself, are three things."""
        whole = Site("resid_pre", 1)
        u, v = torch.eye(36)[:2], torch.eye(36)[5]
        cache = interp.capture(gpt2.model, tokens, [whole, whole.within(u), whole.within(v)])
        assert len(cache) == 3
        assert torch.equal(cache[whole.within(u)].abs(), cache[whole][..., :2].abs())
        assert torch.equal(cache[whole.within(v)].abs(), cache[whole][..., 5:6].abs())
        assert len(dict(cache)) == 3
        only = interp.capture(gpt2.model, tokens, whole.within(u))
        assert "resid_pre[1]" not in only
        with pytest.raises(
            SiteError, match=r"resid_pre\[1\] was not captured. Captured: resid_pre\[1\] in a subspace"
        ):
            only["resid_pre[1]"]

    def test_what_was_not_captured(self, gpt2: Specimen, tokens: Tensor):
        cache = interp.capture(gpt2.model, tokens, ["z[1]", "resid_pre@END", "mlp_post[0].n3"])
        only_row = interp.capture(gpt2.model, tokens, "z[1]#1")
        for name in ("z[1]", "z[1]#0", "z[1.2]"):
            assert name not in only_row
        assert torch.equal(only_row["z[1.2]#1"], cache["z[1.2]"][1:2])
        for name in ("z", "z[0]", "q", "resid_pre", "resid_pre@3", "mlp_post[0]", "mlp_post[0].n4"):
            assert name not in cache
            with pytest.raises(
                SiteError, match=r"was not captured. Captured: z\[1\], resid_pre@END, mlp_post\[0\].n3"
            ):
                cache[name]
        assert "nonsense" not in cache
        with pytest.raises(SiteError, match="unknown component"):
            cache["nonsense"]
        with pytest.raises(SiteError, match="names 2 sites where one is expected"):
            cache["z[1.0,1.1]"]

    def test_rows_that_differ_in_length_do_not_stack(self, gpt2: Specimen):
        prompts = random_prompts(2, 3, 9, "right")
        with pytest.raises(SiteError, match=r"covers \[7, 6, 9\] positions in the rows"):
            interp.capture(gpt2.model, prompts.tokens, "z[0]@0:", attention_mask=prompts.mask)
        with pytest.raises(SiteError, match=r"covers \[0, 0, 1\]"):
            interp.capture(gpt2.model, prompts.tokens, "z[0]@8", attention_mask=prompts.mask)

    def test_moving_a_cache(self, gpt2: Specimen, tokens: Tensor):
        cache = interp.capture(gpt2.model, tokens, ["z", "resid_pre"], device="cpu", gradients_of=loss_of)
        moved = cache.to("meta")
        assert {moved["z"].device.type, moved.grads["z"].device.type, moved.logits.device.type} == {"meta"}
        assert cache.nbytes() == 4 * (2 * 3 * 9 * 36 + 2 * 3 * 9 * 36)


BAD_SITES = [
    ("zz", "unknown component 'zz'; did you mean 'z'"),
    ("z[2]", "layer 2, but this gpt2 model has 2 layers"),
    ([], "no site given"),
    ("mlp_pre_linear", "its MLP is not gated"),
    (3, "a site is a string like"),
]


@pytest.mark.parametrize(("sites", "message"), BAD_SITES, ids=range(len(BAD_SITES)))
def test_sites_that_are_not_there(gpt2: Specimen, tokens: Tensor, sites: Any, message: str):
    with pytest.raises(SiteError, match=message):
        interp.capture(gpt2.model, tokens, sites if isinstance(sites, list | str) else [sites])


def test_an_error_inside_leaves_no_hook(kind: Specimen, tokens: Tensor):
    """The fixture compares what is registered before and after."""
    with pytest.raises(ModelError):
        interp.capture(kind.model, tokens + 50, kind.model.components)
    with pytest.raises(KeyboardInterrupt), interp.intervene(kind.model, interp.apply("z[1]", _interrupt)):
        interp.capture(kind.model, tokens, kind.model.components, gradients_of=loss_of)


def _interrupt(part: Tensor) -> Tensor:
    raise KeyboardInterrupt


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "plain"])
def test_on_a_gpu(name: str):
    from model_zoo import make_bare

    model = interp.load_model(make_bare(name), device="cuda")
    prompts = random_prompts(3, 3, 9, "left")
    cache = interp.capture(
        model,
        prompts.tokens,
        ["z", "result"],
        attention_mask=prompts.mask,
        device="cpu",
        gradients_of=loss_of,
    )
    on_cpu = interp.capture(
        specimen(name).model,
        prompts.tokens,
        ["z", "result"],
        attention_mask=prompts.mask,
        gradients_of=loss_of,
    )
    for site in ("z", "result"):
        assert cache[site].device.type == "cpu"
        torch.testing.assert_close(cache[site], on_cpu[site].detach(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(cache.grads[site], on_cpu.grads[site], atol=1e-3, rtol=1e-3)
    with torch.no_grad(), interp.intervene(model, interp.mean("z", cache)):
        assert torch.isfinite(model(prompts.tokens, prompts.mask)[prompts.real]).all()
