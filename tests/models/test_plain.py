"""The plain transformer against a forward pass written independently, head by head and token by token."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint
from transformers import AutoModelForCausalLM, DynamicCache

from interp.errors import ModelError
from interp.models.plain import PlainConfig, PlainTransformer
from interp.models.plain.model import make_sinusoids

CONFIGS: dict[str, dict[str, Any]] = {
    "attention-only": dict(d_model=12, n_heads=3),
    "bare": dict(d_model=7, n_heads=2, d_head=3, norm=None, positions=None, attn_bias=False, attn_scale=1.3),
    "mlp": dict(d_model=9, n_heads=2, d_head=5, d_mlp=11, act="gelu_new", unembed_bias=True),
    "gated": dict(d_model=10, n_heads=5, d_head=1, d_mlp=3, gated_mlp=True, act="silu", norm="rmsnorm"),
    "tied": dict(d_model=8, n_heads=1, d_head=13, d_mlp=6, act="relu", tie_word_embeddings=True),
    "linear": dict(d_model=5, n_heads=2, d_head=2, d_mlp=1, act="identity", mlp_bias=False, norm=None),
    "exact-gelu": dict(d_model=6, n_heads=2, d_mlp=17, act="gelu", norm_eps=0.1, n_layers=3),
}
VOCAB, N_CTX = 19, 24


def make_model(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> PlainTransformer:
    """Every parameter random: nothing cancels by being 0 or 1."""
    torch.manual_seed(seed)
    model = PlainTransformer(PlainConfig(vocab_size=VOCAB, n_ctx=N_CTX, pad_token_id=0, **CONFIGS[name]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model.to(dtype).eval()


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def _naive_norm(
    config: PlainConfig, weights: dict[str, torch.Tensor], prefix: str, x: torch.Tensor
) -> torch.Tensor:
    if config.norm is None:
        return x
    if config.norm == "layernorm":
        return F.layer_norm(x, x.shape, weights[prefix + ".w"], weights[prefix + ".b"], config.norm_eps)
    return F.rms_norm(x, x.shape, weights[prefix + ".w"], config.norm_eps)


def naive_forward(model: PlainTransformer, row: list[int]) -> dict[str, torch.Tensor]:
    """Every activation of one prompt, under its hook's name: one token, one head at a time."""
    config, weights = model.config, dict(model.named_parameters())
    n, kept = len(row), {}

    def bias(key: str, index: Any = ...) -> torch.Tensor | float:
        return weights[key][index] if key in weights else 0.0

    kept["embed.hook_out"] = torch.stack([weights["embed.W_E"][token] for token in row])
    resid = [kept["embed.hook_out"][p] for p in range(n)]
    if config.positions:
        resid = [resid[p] + weights["pos_embed.W_pos"][p] for p in range(n)]
    for layer in range(config.n_layers):
        at = f"blocks.{layer}."
        kept[at + "hook_in"] = kept[at + "ln1.hook_in"] = torch.stack(resid)
        x = [_naive_norm(config, weights, at + "ln1", r) for r in resid]
        q, k, v, z = ([[None] * config.n_heads for _ in range(n)] for _ in range(4))
        scores = torch.full((config.n_heads, n, n), torch.finfo(torch.float64).min, dtype=torch.float64)
        pattern = torch.zeros(config.n_heads, n, n, dtype=torch.float64)
        for h in range(config.n_heads):
            for p in range(n):
                for kind, out in (("Q", q), ("K", k), ("V", v)):
                    out[p][h] = x[p] @ weights[f"{at}attn.W_{kind}"][h] + bias(f"{at}attn.b_{kind}", h)
            for p in range(n):
                row_scores = torch.stack([q[p][h] @ k[s][h] * config.attn_scale for s in range(p + 1)])
                weight = row_scores.exp() / row_scores.exp().sum()
                scores[h, p, : p + 1], pattern[h, p, : p + 1] = row_scores, weight
                z[p][h] = sum(weight[s] * v[s][h] for s in range(p + 1))
        for kind, values in (("q", q), ("k", k), ("v", v)):
            kept[f"{at}attn.{kind}.hook_out"] = torch.stack([torch.stack(heads) for heads in values])
        kept[at + "attn.hook_attn_scores"], kept[at + "attn.hook_pattern"] = scores, pattern
        kept[at + "attn.o.hook_in"] = torch.stack([torch.stack(heads) for heads in z])
        heads = range(config.n_heads)
        out = [
            sum(z[p][h] @ weights[at + "attn.W_O"][h] for h in heads) + bias(at + "attn.b_O")
            for p in range(n)
        ]
        kept[at + "attn.o.hook_out"] = kept[at + "attn.hook_out"] = torch.stack(out)
        resid = [resid[p] + out[p] for p in range(n)]
        if config.d_mlp:
            kept[at + "hook_resid_mid"] = kept[at + "ln2.hook_in"] = torch.stack(resid)
            x = torch.stack([_naive_norm(config, weights, at + "ln2", r) for r in resid])
            pre = kept[at + "mlp.in.hook_out"] = x @ weights[at + "mlp.W_in"] + bias(at + "mlp.b_in")
            if config.gated_mlp:
                gate = x @ weights[at + "mlp.W_gate"] + bias(at + "mlp.b_gate")
                kept[at + "mlp.gate.hook_out"] = gate
                post = gate / (1 + torch.exp(-gate)) * pre
            else:
                post = {
                    "relu": lambda t: t * (t > 0),
                    "identity": lambda t: t,
                    "gelu": lambda t: t * (1 + torch.erf(t / math.sqrt(2))) / 2,
                    "gelu_new": lambda t: (
                        t / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3)))
                    ),
                }[config.act](pre)
            kept[at + "mlp.out.hook_in"] = post
            mlp_out = kept[at + "mlp.hook_out"] = post @ weights[at + "mlp.W_out"] + bias(at + "mlp.b_out")
            resid = [resid[p] + mlp_out[p] for p in range(n)]
        kept[at + "hook_out"] = torch.stack(resid)
    kept["ln_final.hook_in"] = torch.stack(resid)
    final = torch.stack([_naive_norm(config, weights, "ln_final", r) for r in resid])
    kept["ln_final.hook_out"] = final
    W_U = weights["embed.W_E"].T if config.tie_word_embeddings else weights["unembed.W_U"]
    kept["unembed.hook_out"] = final @ W_U + bias("unembed.b_U")
    return kept


def random_tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def hook_points(model: PlainTransformer) -> dict[str, HookPoint]:
    return {key: module for key, module in model.named_modules() if isinstance(module, HookPoint)}


def record(model: PlainTransformer, tokens: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    handles = [
        point.register_forward_hook(lambda module, args, out: seen.__setitem__(module.name, out))
        for point in hook_points(model).values()
    ]
    model(tokens, **inputs)
    for handle in handles:
        handle.remove()
    return seen


def test_every_activation_equals_the_naive_one(name: str) -> None:
    model, tokens = make_model(name), random_tokens(3, 8)
    seen = record(model, tokens)
    for row in range(3):
        expected = naive_forward(model, tokens[row].tolist())
        for key, value in expected.items():
            torch.testing.assert_close(
                seen[key][row], value, atol=1e-9, rtol=1e-9, msg=lambda m, k=key: f"{k}: {m}"
            )


def test_hook_points_are_the_documented_ones(name: str) -> None:
    model = make_model(name)
    for key, point in hook_points(model).items():
        assert point.name == key
    norm_inside = {"pos_embed.hook_out", "unembed.hook_in"}
    extra = {key for key in hook_points(model) if key.endswith(("hook_scale", "hook_normalized"))}
    extra |= {
        f"blocks.{layer}.{ln}.hook_out" for layer in range(model.config.n_layers) for ln in ("ln1", "ln2")
    }
    assert set(hook_points(model)) - extra - norm_inside == set(naive_forward(model, [1, 2]))


def test_parameter_gradients_equal_the_naive_ones(name: str) -> None:
    model, tokens = make_model(name), random_tokens(1, 6)
    probe = torch.randn(6, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    parameters = dict(model.named_parameters())
    got = torch.autograd.grad((model(tokens).logits[0] * probe).sum(), list(parameters.values()))
    naive = naive_forward(model, tokens[0].tolist())["unembed.hook_out"]
    expected = torch.autograd.grad((naive * probe).sum(), list(parameters.values()))
    for key, mine, theirs in zip(parameters, got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-8, msg=lambda m, k=key: f"{k}: {m}")


def test_every_hook_acts_and_gets_a_gradient(name: str) -> None:
    model, tokens = make_model(name), random_tokens(2, 7)
    clean = model(tokens).logits
    for key, point in hook_points(model).items():
        caught: list[torch.Tensor] = []

        def edit(
            module: Any, args: Any, out: torch.Tensor, caught: list[torch.Tensor] = caught
        ) -> torch.Tensor:
            caught.append(out)
            noise = torch.linspace(0.1, 1, out.numel(), dtype=out.dtype).view(out.shape)
            return out * noise

        handle = point.register_forward_hook(edit)
        logits = model(tokens).logits
        handle.remove()
        assert (logits - clean).abs().max() > 1e-4, key
        (gradient,) = torch.autograd.grad(logits[:, -1, 3].sum(), caught[0])
        assert gradient.abs().max() > 1e-8, key
    assert torch.equal(model(tokens).logits, clean)


def test_norm_input_edits_stay_out_of_the_stream_and_stream_edits_do_not() -> None:
    model, tokens = make_model("mlp"), random_tokens(2, 5)
    clean = record(model, tokens)

    def shift(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        return out + torch.arange(out.shape[-1])

    for hook, in_stream in (("ln2.hook_in", False), ("hook_resid_mid", True)):
        with model.get_submodule(f"blocks.0.{hook}").register_forward_hook(shift):
            seen = record(model, tokens)
        moved = seen["blocks.0.hook_out"] - clean["blocks.0.hook_out"]
        by_mlp = seen["blocks.0.mlp.hook_out"] - clean["blocks.0.mlp.hook_out"]
        expected = by_mlp + (torch.arange(9) if in_stream else 0)
        torch.testing.assert_close(moved, expected.double(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name: str, side: str) -> None:
    model = make_model(name)
    lengths = (5, 9, 2)
    tokens, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(9 - length, None) if side == "left" else slice(length)
        tokens[row, where], mask[row, where] = random_tokens(1, length, seed=row)[0], 1
    padded = model(tokens, attention_mask=mask)
    assert torch.isfinite(padded.logits).all()
    for row, length in enumerate(lengths):
        alone = model(random_tokens(1, length, seed=row)).logits[0]
        torch.testing.assert_close(padded.logits[row, mask[row].bool()], alone, atol=1e-10, rtol=1e-10)


def test_padding_gets_no_gradient_and_gives_none() -> None:
    model, tokens = make_model("mlp"), random_tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    caught: list[torch.Tensor] = []
    with model.blocks[0].hook_in.register_forward_hook(lambda m, a, out: caught.append(out)):
        logits = model(tokens, attention_mask=mask).logits
    (gradient,) = torch.autograd.grad(logits[mask.bool()].square().sum(), caught[0])
    assert gradient[0, :2].abs().max() == 0
    assert gradient[mask.bool()].abs().amax(-1).min() > 0


def test_cache_equals_no_cache_in_uneven_pieces(name: str) -> None:
    model, tokens = make_model(name), random_tokens(3, 10)
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[1, :4] = False
    whole = model(tokens, attention_mask=mask).logits
    cache, pieces = DynamicCache(config=model.config), []
    for start, stop in ((0, 5), (5, 6), (6, 10)):
        out = model(tokens[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache)
        pieces.append(out.logits)
    assert cache.get_seq_length() == 10
    torch.testing.assert_close(torch.cat(pieces, 1)[mask], whole[mask], atol=1e-10, rtol=1e-10)


def test_cache_without_mask_continues_positions() -> None:
    model, tokens = make_model("mlp"), random_tokens(2, 7)
    first = model(tokens[:, :4], use_cache=True)
    second = model(tokens[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), model(tokens).logits)
    assert model(tokens).past_key_values is None


def test_generation_is_the_same_with_and_without_cache_and_padding(name: str) -> None:
    model, tokens = make_model(name), random_tokens(3, 6)
    mask = torch.ones_like(tokens)
    mask[2, :3] = 0
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    cached = model.generate(tokens, attention_mask=mask, use_cache=True, **options)
    assert torch.equal(cached, model.generate(tokens, attention_mask=mask, use_cache=False, **options))
    assert torch.equal(cached[2:, 3:], model.generate(tokens[2:, 3:], **options))
    row = tokens[0].tolist()
    for token in cached[0, 6:].tolist():
        assert token == naive_forward(model, row)["unembed.hook_out"][-1].argmax()
        row.append(token)


def test_explicit_positions_are_used() -> None:
    model, tokens = make_model("mlp"), random_tokens(2, 4)
    shifted = model(tokens, position_ids=torch.arange(3, 7)[None]).logits
    rolled = copy.deepcopy(model)
    with torch.no_grad():
        rolled.pos_embed.W_pos.copy_(model.pos_embed.W_pos.roll(-3, 0))
    torch.testing.assert_close(shifted, rolled(tokens).logits)
    assert (shifted - model(tokens).logits).abs().max() > 0.01


def test_loss_is_the_mean_of_the_next_tokens_and_skips_ignored_ones() -> None:
    model, tokens = make_model("gated", dtype=torch.float32), random_tokens(2, 6)
    labels = tokens.clone()
    labels[0, :4] = -100
    out = model(tokens, labels=labels)
    log_probs = out.logits.log_softmax(-1)
    terms = [
        -log_probs[row, p, tokens[row, p + 1]] for row in (0, 1) for p in range(5) if labels[row, p + 1] >= 0
    ]
    torch.testing.assert_close(out.loss, torch.stack(terms).mean())
    assert torch.equal(model(tokens, labels=labels, return_dict=False)[0], out.loss)


def test_logits_to_keep() -> None:
    model, tokens = make_model("tied"), random_tokens(2, 6)
    whole = model(tokens).logits
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, whole[:, -2:])
    torch.testing.assert_close(model(tokens, logits_to_keep=torch.tensor([4, 1])).logits, whole[:, [4, 1]])


def test_save_and_load_are_bit_exact(name: str, tmp_path: Any) -> None:
    model, tokens = make_model(name, dtype=torch.float32), random_tokens(2, 9)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is PlainTransformer and not loaded.training
    for key in PlainConfig.__annotations__:
        assert getattr(loaded.config, key) == getattr(model.config, key), key
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value), key
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert {point.name for point in hook_points(loaded).values()} == set(hook_points(model))


@pytest.mark.parametrize("name", ["attention-only", "exact-gelu"])
def test_weights_move_to_a_hooked_transformer_unchanged(name: str) -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    model, tokens = make_model(name, dtype=torch.float32), random_tokens(2, 8)
    config = model.config
    hooked = HookedTransformer(
        HookedTransformerConfig(
            n_layers=config.n_layers, d_model=config.d_model, n_ctx=N_CTX, d_head=config.d_head,
            n_heads=config.n_heads, d_vocab=VOCAB, attn_only=not config.d_mlp, d_mlp=config.d_mlp or None,
            act_fn="gelu", eps=config.norm_eps, normalization_type="LN", device="cpu",
        )
    )  # fmt: skip
    missing, unexpected = hooked.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(key.endswith((".mask", ".IGNORE", "unembed.b_U")) for key in missing)
    torch.testing.assert_close(hooked(tokens), model(tokens).logits, atol=2e-4, rtol=2e-4)


def test_initialisation_follows_the_config() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = dict(
        vocab_size=500, n_ctx=64, d_model=96, d_mlp=200, n_layers=2, initializer_range=0.1
    )
    model = PlainTransformer(PlainConfig(**options, embed_init_std=0.5))
    block = model.blocks[1]
    for tensor, std in (
        (model.embed.W_E, 0.5),
        (model.pos_embed.W_pos, 0.1),
        (block.attn.W_Q, 0.1),
        (block.attn.W_O, 0.05),
        (block.mlp.W_out, 0.05),
        (model.unembed.W_U, 0.1),
    ):
        assert tensor.std().item() == pytest.approx(std, rel=0.05)
    assert torch.equal(block.ln1.w, torch.ones(96)) and not block.ln1.b.any() and not block.attn.b_Q.any()
    waves = PlainTransformer(
        PlainConfig(**options, position_init="sinusoidal", position_init_std=0.3)
    ).pos_embed.W_pos
    assert waves.square().mean().sqrt().item() == pytest.approx(0.3, rel=1e-5)
    torch.testing.assert_close(
        waves[5, 2].item(), 0.3 * math.sqrt(2) * math.sin(5 * 1e4 ** (-2 / 48)), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        waves[5, 50].item(), 0.3 * math.sqrt(2) * math.cos(5 * 1e4 ** (-2 / 48)), rtol=1e-5, atol=0
    )
    assert make_sinusoids(6, 5).shape == (6, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(n_layer=3), "unknown option of PlainConfig 'n_layer'.*did you mean 'n_layers'"),
        (dict(d_model=10, n_heads=3), "d_model 10 does not divide among 3 heads"),
        (dict(act="gelu-new"), "unknown act 'gelu-new'; did you mean 'gelu_new'"),
        (dict(norm="layer"), "unknown norm"),
        (dict(positions="rotary"), "unknown positions 'rotary'"),
        (dict(d_mlp=-1), "d_mlp must be 0"),
        (dict(d_head=0), "d_head must be at least 1"),
        (dict(n_layers=0), "n_layers must be at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        PlainConfig(**options)


def test_hugging_face_names_are_read_and_written() -> None:
    config = PlainConfig(hidden_size=24, num_hidden_layers=3)
    assert (config.d_model, config.n_layers, config.num_attention_heads) == (24, 3, config.n_heads)


def test_bad_inputs_are_refused() -> None:
    model, tokens = make_model("mlp"), random_tokens(2, 6)
    with pytest.raises(ModelError, match=r"past \+ present\] = \[2, 6\]; got \[2, 5\]"):
        model(tokens, attention_mask=torch.ones(2, 5))
    with pytest.raises(ModelError, match="position 24 is beyond the model's n_ctx of 24"):
        model(random_tokens(1, 25))
    with pytest.raises(ModelError, match="position 30"):
        model(tokens, position_ids=torch.arange(25, 31)[None])
    with pytest.raises(TypeError, match="output_attention"):
        model(tokens, output_attention=True)
    # padded beyond n_ctx, but with few enough real tokens
    padded = torch.cat([torch.zeros(2, N_CTX, dtype=torch.long), tokens], 1)
    logits = model(padded, attention_mask=(padded > 0).long()).logits[:, N_CTX:]
    torch.testing.assert_close(logits, model(tokens).logits)
