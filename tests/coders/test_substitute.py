"""Coders in a model: attached they are their forward, and their latents are a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, NAMES, Specimen, specimen
from naive_interventions import random_prompts
from random_coders import D_SAE, random_coder
from torch import Tensor, nn

import interp
from interp.coders.substitute import substitute
from interp.errors import CoderError, InterventionError, SiteError

BOUND = 2e-5
"""Of logits up to 10 in size, in fp32 beside the fp64 transformer written out."""
LAYER = 1


def _param(name: str) -> Any:
    return pytest.param(name, marks=[pytest.mark.hooked_transformer] if name in HOOKED else [])


def hooks_of(model: Any) -> list[Any]:
    tables = ("_forward_hooks", "_forward_pre_hooks")
    parts = [*model.module.modules(), *model.hook_points.values()]
    found = [sorted(getattr(part, table)) for part in parts for table in tables]
    return [*found, list(model.active_edits), sorted(model.edit_handles), dict(model.attached)]


@pytest.fixture(params=[_param(name) for name in NAMES])
def kind(request: pytest.FixtureRequest) -> Iterator[Specimen]:
    """Every kind of model; a test that leaves a hook behind fails."""
    found = specimen(request.param)
    before = hooks_of(found.model)
    with torch.no_grad():
        yield found
    assert hooks_of(found.model) == before


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 53, (3, 9), generator=torch.Generator().manual_seed(2))


def width(model: Any, component: str) -> int:
    traits = model.traits
    return {"z": traits.n_heads * traits.d_head, "mlp_post": traits.d_mlp}.get(component, traits.d_model)


def autoencoder(model: Any, site: str, seed: int = 0) -> nn.Module:
    return random_coder("topk", width(model, site.partition("[")[0]), sites=(site,), seed=seed)


def transcoder(layer: int, seed: int = 0) -> nn.Module:
    sites = {"sites": (f"mlp_in[{layer}]",), "targets": (f"mlp_out[{layer}]",)}
    return random_coder("skip-transcoder", 36, seed=seed, **sites)


def cross_layer() -> nn.Module:
    layers = range(2)
    sites, targets = (tuple(f"{name}[{i}]" for i in layers) for name in ("mlp_in", "mlp_out"))
    return random_coder("cross-layer-transcoder", 36, sites=sites, targets=targets)


def wide(coder: nn.Module, x: Tensor) -> Tensor:
    """A coder's forward for the fp64 transformer, heads side by side."""
    return coder(x.float().flatten(2)).view_as(x).double()


SITES = ("mlp_out", "z", "resid_post", "resid_mid", "attn_out", "mlp_post", "resid_pre")


@pytest.mark.parametrize("component", SITES)
def test_an_attached_autoencoder_is_its_forward(kind: Specimen, component: str, tokens: Tensor) -> None:
    if component not in kind.model.components:
        return
    site = f"{component}[{LAYER}]"
    coder = autoencoder(kind.model, site)
    with substitute(kind.model, {site: coder}, keep_error=False):
        found = kind.model(tokens)
    expected = kind.naive(tokens, edits={(component, LAYER): lambda x: wide(coder, x)})
    torch.testing.assert_close(found.double(), expected, atol=BOUND, rtol=BOUND)
    assert (found - kind.model(tokens)).abs().max() > 1e-2


def test_an_attached_skip_transcoder_is_its_forward(kind: Specimen, tokens: Tensor) -> None:
    if not kind.model.traits.d_mlp:
        return
    coder, record = transcoder(LAYER), dict[Any, Tensor]()
    edits = {("mlp_out", LAYER): lambda out: wide(coder, record["mlp_in", LAYER])}
    expected = kind.naive(tokens, edits=edits, record=record)
    with substitute(kind.model, coder, keep_error=False):
        found = kind.model(tokens)
    torch.testing.assert_close(found.double(), expected, atol=BOUND, rtol=BOUND)
    coder.W_skip.data.zero_()
    with substitute(kind.model, coder, keep_error=False):
        assert (kind.model(tokens) - found).abs().max() > 1e-2


def test_an_attached_cross_layer_transcoder_writes_to_later_layers(kind: Specimen, tokens: Tensor) -> None:
    if not kind.model.traits.d_mlp:
        return
    coder, record = cross_layer(), dict[Any, Tensor]()

    def predict(layer: int) -> Callable[[Tensor], Tensor]:
        def edit(out: Tensor) -> Tensor:
            # layers that are not reached yet do not matter
            known = [record.get(("mlp_in", i), torch.zeros_like(out)).float() for i in range(2)]
            return coder(torch.stack(known, -2))[..., layer, :].double()

        return edit

    edits = {("mlp_out", layer): predict(layer) for layer in range(2)}
    expected = kind.naive(tokens, edits=edits, record=record)
    with substitute(kind.model, coder, keep_error=False):
        found = kind.model(tokens)
    torch.testing.assert_close(found.double(), expected, atol=BOUND, rtol=BOUND)


def test_with_the_error_nothing_changes(kind: Specimen, tokens: Tensor) -> None:
    """To the bit, also while latents are read; and no gradient changes but by rounding."""
    model = kind.model
    coders: list[Any] = [autoencoder(model, "z[0]"), autoencoder(model, "resid_post[0]")]
    places = ["z", "resid_post"]
    if model.traits.d_mlp:
        coders.append(cross_layer())
        places += ["mlp_out"]
    read = [f"{name}[0]:latent*" for name in places]
    plain = interp.capture(model, tokens, "embed", gradients_of=lambda x: x[:, -1, 3] ** 2)
    with substitute(model, coders):
        assert torch.equal(model(tokens), plain.logits)
        cache = interp.capture(model, tokens, ["embed", *read], gradients_of=lambda x: x[:, -1, 3] ** 2)
    assert torch.equal(cache.logits, plain.logits)
    scale = float(plain.grads["embed"].abs().max())
    torch.testing.assert_close(cache.grads["embed"], plain.grads["embed"], atol=1e-4 * scale, rtol=1e-3)
    for site in read:
        assert cache[site].shape == (3, 9, D_SAE)
        assert bool((cache[site] > 0).any())


@pytest.mark.parametrize("keep_error", [True, False])
def test_an_edited_latent_moves_the_output_by_its_decoder_row(
    kind: Specimen, keep_error: bool, tokens: Tensor
) -> None:
    site = "resid_post[0]"
    coder = autoencoder(kind.model, site)
    with substitute(kind.model, {site: coder}, keep_error=keep_error):
        before = interp.capture(kind.model, tokens, [site, f"{site}:latent*"])
        latents = before[f"{site}:latent*"]
        busiest = int((latents > 0).sum((0, 1)).argmax())
        other = (busiest + 3) % D_SAE
        edit = interp.add(f"{site}:latent{busiest},{other}@2:#0,2", torch.tensor([2.0, -0.5]))
        with interp.intervene(kind.model, edit):
            after = interp.capture(kind.model, tokens, [site, f"{site}:latent{busiest}"])
        with interp.intervene(kind.model, interp.zero(f"{site}:latent{busiest}")):
            gone = interp.capture(kind.model, tokens, site)
    touched = torch.zeros(3, 9, 1)
    touched[[0, 2], 2:] = 1
    moved = touched * (2.0 * coder.W_dec[busiest] - 0.5 * coder.W_dec[other])
    torch.testing.assert_close(after[site], before[site] + moved, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        after[f"{site}:latent{busiest}"][..., 0], latents[..., busiest] + 2 * touched[..., 0]
    )
    without = before[site] - latents[..., busiest, None] * coder.W_dec[busiest]
    torch.testing.assert_close(gone[site], without, atol=1e-5, rtol=1e-5)


def test_an_edited_latent_of_a_cross_layer_transcoder_moves_every_later_output(tokens: Tensor) -> None:
    model, coder = specimen("llama").model, cross_layer()
    sites = ["mlp_out[0]", "mlp_out[1]"]
    with torch.no_grad(), substitute(model, {"mlp_out": coder}):
        before = interp.capture(model, tokens, [*sites, "mlp_in[1]"])
        # what the first layer changes is taken back before the second reads, so that its latents stay
        edits = [interp.add("mlp_out[0]:latent5", 1.5), interp.replace("mlp_in[1]", before["mlp_in[1]"])]
        with interp.intervene(model, edits):
            after = interp.capture(model, tokens, sites)
    rows = 1.5 * coder.decoders[0][5].view(2, 36)
    torch.testing.assert_close(after[sites[0]], before[sites[0]] + rows[0], atol=1e-5, rtol=1e-5)
    stays = {"mlp_out[1]": after[sites[1]] - rows[1]}
    with torch.no_grad(), interp.intervene(model, interp.replace("mlp_in[1]", before["mlp_in[1]"])):
        own = interp.capture(model, tokens, sites)
    torch.testing.assert_close(stays["mlp_out[1]"], own[sites[1]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keep_error", [True, False])
def test_gradients_arrive_at_latents(kind: Specimen, keep_error: bool, tokens: Tensor) -> None:
    """dL/dlatent is dL/doutput along the decoder row, and what an edit of it changes to first order."""
    site = "resid_post[0]"
    coder = autoencoder(kind.model, site)
    names = [site, f"{site}:latent*"]
    with substitute(kind.model, {site: coder}, keep_error=keep_error):
        cache = interp.capture(kind.model, tokens, names, gradients_of=lambda x: x.log_softmax(-1)[:, -1, 5])
        assert cache.grads is not None
        expected = cache.grads[site] @ coder.W_dec.T
        torch.testing.assert_close(cache.grads[names[1]], expected, atol=1e-5, rtol=1e-4)
        part = interp.capture(
            kind.model, tokens, f"{site}:latent7,2", gradients_of=lambda x: x.log_softmax(-1)[:, -1, 5]
        )
    torch.testing.assert_close(part.grads[f"{site}:latent7,2"], expected[..., [7, 2]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(kind: Specimen, side: str) -> None:
    prompts = random_prompts(6, 3, 10, side)
    coders = [autoencoder(kind.model, "z[0]"), autoencoder(kind.model, "resid_post[0]", seed=3)]
    edit = interp.scale("z[0]:latent*", 1.3)
    with substitute(kind.model, coders, keep_error=False), interp.intervene(kind.model, edit):
        found = kind.model(prompts.tokens, prompts.mask)
        for row in range(3):
            alone = kind.model(prompts.tokens[row][prompts.real[row]][None])[0]
            torch.testing.assert_close(found[row][prompts.real[row]], alone, atol=2e-5, rtol=1e-4)


def test_generation_with_a_cache_is_generation_without(kind: Specimen) -> None:
    prompts = random_prompts(3, 2, 8, "left")
    coders: list[Any] = [autoencoder(kind.model, "z[0]")]
    if kind.model.traits.d_mlp:
        coders.append(cross_layer())
    given = {"max_new_tokens": 5, "attention_mask": prompts.mask}
    plain = kind.model.generate(prompts.tokens, **given)
    edit = interp.add("z[0]:latent3@gen", 4.0)
    with substitute(kind.model, coders, keep_error=False), interp.intervene(kind.model, edit):
        found = [kind.model.generate(prompts.tokens, use_cache=cached, **given) for cached in (True, False)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], plain)


def test_blocks_nest_and_order_interventions(tokens: Tensor) -> None:
    """What is entered before acts on what the coder reads; what is entered inside, on what it gave."""
    model = specimen("gpt2").model
    site = "mlp_out[0]"
    coder, other = autoencoder(model, site), autoencoder(model, "resid_post[1]", seed=4)
    double = interp.scale(site, 2.0)
    with torch.no_grad():
        clean = interp.capture(model, tokens, site)[site]
        with interp.intervene(model, double), substitute(model, coder, keep_error=False):
            before = interp.capture(model, tokens, site)[site]
        with substitute(model, coder, keep_error=False), interp.intervene(model, double):
            after = interp.capture(model, tokens, site)[site]
        torch.testing.assert_close(before, coder(2 * clean))
        torch.testing.assert_close(after, 2 * coder(clean))
        with ExitStack() as stack:
            for one in (coder, other):
                stack.enter_context(substitute(model, one, keep_error=False))
            nested = model(tokens)
        with substitute(model, [other, coder], keep_error=False):
            assert torch.equal(model(tokens), nested)


def test_a_transcoder_sees_what_is_done_to_its_input(tokens: Tensor) -> None:
    model, coder = specimen("qwen3").model, transcoder(0)
    with torch.no_grad(), substitute(model, {"mlp_out[0]": coder}, keep_error=False):
        x = interp.capture(model, tokens, "mlp_in[0]")["mlp_in[0]"]
        with interp.intervene(model, interp.scale("mlp_in[0]", 3.0)):
            found = interp.capture(model, tokens, "mlp_out[0]")["mlp_out[0]"]
        torch.testing.assert_close(found, coder(3 * x))


def test_only_some_positions(tokens: Tensor) -> None:
    model, coder = specimen("gpt2").model, autoencoder(specimen("gpt2").model, "mlp_out[0]")
    with torch.no_grad():
        clean = interp.capture(model, tokens, "mlp_out[0]")["mlp_out[0]"]
        for positions, kept in (("1:", slice(1)), ("-1", slice(8)), ("0:7", slice(7, None))):
            with substitute(model, coder, keep_error=False, positions=positions):
                found = interp.capture(model, tokens, "mlp_out[0]")["mlp_out[0]"]
            expected = coder(clean)
            expected[:, kept] = clean[:, kept]
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("which", ["autoencoder", "transcoder", "cross-layer"])
def test_a_frozen_error_is_a_constant(which: str, tokens: Tensor) -> None:
    model = specimen("llama").model
    coder = {
        "autoencoder": lambda: autoencoder(model, "z[1]"),
        "transcoder": lambda: transcoder(1),
        "cross-layer": cross_layer,
    }[which]()
    sites = list(dict.fromkeys((*coder.sites, *coder.target_sites)))
    push = interp.add("resid_pre[0]", torch.linspace(-2, 2, 36))
    target = coder.target_sites[-1]
    with torch.no_grad():
        clean = interp.capture(model, tokens, sites)
        with substitute(model, coder, frozen_error=clean):
            torch.testing.assert_close(model(tokens), model(tokens), atol=0, rtol=0)
            unchanged = interp.capture(model, tokens, target)
            with interp.intervene(model, push):
                pushed = interp.capture(model, tokens, [*coder.sites, target])
    torch.testing.assert_close(unchanged[target], clean[target], atol=1e-5, rtol=1e-5)

    def predict(cache: Any) -> Tensor:
        x = torch.stack([cache[site].flatten(2) for site in coder.sites], -2)
        out = coder(x if which == "cross-layer" else x[..., 0, :])
        return (out[..., -1, :] if which == "cross-layer" else out).view_as(cache[target])

    with torch.no_grad():
        if which == "autoencoder":
            # its own site is read inside, after the coder; what it read is what comes without it
            with interp.intervene(model, push):
                read = interp.capture(model, tokens, sites)
        else:
            read = pushed
        error = clean[target] - predict(clean)
        torch.testing.assert_close(pushed[target], predict(read) + error, atol=1e-5, rtol=1e-5)


def test_an_exception_leaves_nothing_behind(tokens: Tensor) -> None:
    model = specimen("plain").model
    before = hooks_of(model)
    edit = interp.zero("mlp_out[0]:latent2")
    with pytest.raises(KeyboardInterrupt), substitute(model, cross_layer()), interp.intervene(model, edit):
        model(tokens)
        raise KeyboardInterrupt
    assert hooks_of(model) == before
    with pytest.raises(SiteError, match="a coder must be attached there first"):
        interp.capture(model, tokens, "mlp_out[0]:latent2")


def test_latents_outlive_their_coder_harmlessly(tokens: Tensor) -> None:
    """Blocks held by generators need not end in the order they began."""
    model = specimen("plain").model
    before, coder = hooks_of(model), autoencoder(model, "mlp_out[0]")
    outer = substitute(model, coder)
    outer.__enter__()
    inner = interp.intervene(model, interp.zero("mlp_out[0]:latent2"))
    inner.__enter__()
    model(tokens)
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    assert hooks_of(model) == before


def test_a_block_without_a_forward_is_an_error() -> None:
    model = specimen("plain").model
    coder = autoencoder(model, "z[0]")
    with pytest.raises(InterventionError, match="no forward pass"), substitute(model, coder):
        pass


def test_two_captured_parts_of_one_site() -> None:
    """An activation and its latents have different widths, and neither stands for the other."""
    model, tokens = specimen("gpt2").model, torch.tensor([[3, 5, 9]])
    coder = autoencoder(model, "mlp_out[1]")
    with torch.no_grad(), substitute(model, coder):
        cache = interp.capture(model, tokens, ["mlp_out[1]", "mlp_out[1]:latent*@-1"])
        assert cache["mlp_out[1]"].shape == (1, 3, 36)
        latents = cache["mlp_out[1]:latent*@-1"]
        torch.testing.assert_close(latents, coder.encode(cache["mlp_out[1]"])[:, -1])
        assert torch.equal(cache["mlp_out[1]:latent6,1@-1"], latents[:, [6, 1]])
        only = interp.capture(model, tokens, "mlp_out[1]")
        with pytest.raises(SiteError, match="was not captured"):
            only["mlp_out[1]:latent4"]
        with pytest.raises(SiteError, match="no coder is attached in layer 0"):
            interp.capture(model, tokens, "mlp_out:latent4")
        with pytest.raises(SiteError, match=r"latent 29, but the coder has 29 \(0 to 28\)"):
            interp.capture(model, tokens, "mlp_out[1]:latent29")


def errors() -> list[tuple[Any, dict[str, Any], str]]:
    model = specimen("gpt2").model
    coder, nameless = autoencoder(model, "mlp_out[0]"), random_coder("topk", 36)
    crosscoder = random_coder("crosscoder", 36, sites=("resid_pre[0]", "resid_pre[1]"))
    late = random_coder("transcoder", 36, sites=("mlp_out[1]",), targets=("mlp_in[1]",))
    return [
        ({}, {}, "no coder was given"),
        ({"mlp_out[1]": coder}, {}, r"trained for mlp_out\[0\], but is given for mlp_out\[1\]"),
        ({"mlp_out[7]": nameless}, {}, r"no site mlp_out\[7\]"),
        ({"mlp_outt[1]": nameless}, {}, "did you mean 'mlp_out'"),
        ({"mlp_out": nameless}, {}, "all of one layer's activation"),
        ({"mlp_out[0]@END": nameless}, {}, "all of one layer's activation"),
        ({"z[0.1]": nameless}, {}, "all of one layer's activation"),
        ({"mlp_post[0]": nameless}, {}, "of width 36, but mlp_post.0. of .* has 52"),
        ({"pattern[0]": nameless}, {}, "not one vector a token"),
        (nameless, {}, "does not know its site"),
        ({"mlp_out[0]": torch.nn.Linear(36, 36)}, {}, "a coder has encode, decode"),
        (crosscoder, {}, "a crosscoder .* cannot be attached"),
        ({"mlp_out[0]": nameless, "mlp_out[1]": nameless}, {}, "one coder is given for several sites"),
        ([coder, coder], {}, r"two coders are given for mlp_out\[0\]"),
        ({"mlp_out[1]": cross_layer()}, {}, "replaces all its targets"),
        (coder, {"keep_error": False, "frozen_error": object()}, "with keep_error=False there is none"),
        (late, {}, "came before"),
    ]


@pytest.mark.parametrize("case", range(17))
def test_errors(case: int, tokens: Tensor) -> None:
    coders, options, message = errors()[case]
    model = specimen("gpt2").model
    before = hooks_of(model)
    block = substitute(model, coders, **({"keep_error": False} | options))
    with pytest.raises((CoderError, SiteError), match=message), block:
        model(tokens)
    assert hooks_of(model) == before


def test_one_coder_at_several_layers_if_that_is_meant(tokens: Tensor) -> None:
    model = specimen("gpt2").model
    coder = autoencoder(model, "mlp_out[0]")
    with torch.no_grad(), substitute(model, {"mlp_out[0]": coder, "mlp_out[1]": coder}, any_site=True):
        cache = interp.capture(model, tokens, ["mlp_out", "mlp_out:latent*"])
        torch.testing.assert_close(cache["mlp_out:latent*"], coder.encode(cache["mlp_out"]))
        again = substitute(model, {"mlp_out[1]": random_coder("topk", 36)})
        with pytest.raises(CoderError, match=r"attached at mlp_out\[1\] already"), again:
            pass
