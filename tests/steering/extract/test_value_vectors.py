"""Value vectors: what neurons write, read through the unembedding, against the model itself."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES
from word_tokenizer import make_tokenizer

import interp
from interp.errors import SteeringError
from interp.models.norms import apply_norm, centre, norm_scale
from interp.steering.extract import clamp_neurons, clamp_random, find_value_vectors
from interp.steering.extract.value_vectors import project_value_vectors, read_words, written_vectors
from interp.steering.neutral import read_neutral
from interp.steering.operations import SetNeurons
from interp.steering.steering import Steering, Step
from interp.steering.world import attribute_token_ids
from interp.types import parse_site

TOKENS = torch.tensor([[3, 17, 40, 8]])


@pytest.fixture
def model(make_hf_model, family):
    return interp.load_model(make_hf_model(family))


def moved(model, value, neuron, step):
    """One neuron ``step`` higher at every token: a step a token, for a value is one number."""
    steps = tuple(
        Step(
            parse_site(f"mlp_post[1]@{i}"),
            SetNeurons(torch.tensor([neuron]), value[0, i, neuron, None] + step, value.shape[-1]),
        )
        for i in range(value.shape[1])
    )
    return Steering(steps).apply(model, strength=1.0)


def test_a_neuron_writes_its_vector(model):
    """Predict, then intervene: one neuron moved by 1 moves the MLP's output by its vector."""
    vectors = written_vectors(model, 1)
    with torch.no_grad():
        before = interp.capture(model, TOKENS, ["mlp_post[1]", "mlp_out[1]"])
    for neuron in (0, 13, 51):
        with torch.no_grad(), moved(model, before["mlp_post[1]"], neuron, 1.0):
            after = interp.capture(model, TOKENS, "mlp_out[1]")["mlp_out[1]"]
        change = after - before["mlp_out[1]"]
        if model.traits.post_norms:
            # the scale of the norm behind the MLP moves too; with both scales known
            raw = model.weights.layers[1].W_out.detach()
            x = before["mlp_post[1]"] @ raw
            gain = model.weights.layers[1].ln2_post.w.detach() + 1
            one, other = norm_scale(x, model.traits), norm_scale(x + raw[neuron], model.traits)
            change = (change + (x / one - x / other) * gain) * other
        torch.testing.assert_close(change, vectors[neuron].expand_as(change), atol=1e-4, rtol=1e-4)


def test_logits_are_what_the_model_would_add_at_a_fixed_scale(model):
    """Through the model's own last norm, its scale held where it was."""
    weights, traits = model.weights, model.traits
    with torch.no_grad():
        resid = interp.capture(model, TOKENS, "resid_post[1]")["resid_post[1]"][0]
        scale = norm_scale(resid, traits)
        plain = apply_norm(resid, weights.ln_final, traits) @ weights.W_U
        for layer in range(2):
            found = project_value_vectors(model, layer)
            assert found.shape == (52, 53)
            for neuron in (2, 30):
                with_it = resid + written_vectors(model, layer)[neuron]
                # apply_norm divides by the scale of what it is given
                after = apply_norm(with_it, weights.ln_final, traits)
                bias = weights.ln_final.b if weights.ln_final.b is not None else 0.0
                after = (after - bias) * norm_scale(with_it, traits) / scale + bias
                change = (after @ weights.W_U - plain) * scale
                torch.testing.assert_close(change, found[neuron].expand_as(change), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma2"])
def test_the_last_layer_really_moves_the_logits_so(make_hf_model, family):
    """To first order one neuron adds its logits, and a part along the stream itself, which only changes its scale."""
    # in Gemma 2 a neuron also changes the scale of the whole MLP output: not one direction
    model = interp.load_model(make_hf_model(family))
    step = 1e-2
    with torch.no_grad():
        cache = interp.capture(model, TOKENS, ["mlp_post[1]", "resid_post[1]"])
        base = model(TOKENS)
        with moved(model, cache["mlp_post[1]"], 4, step):
            change = (model(TOKENS) - base)[0, -1] / step
    traits = model.traits
    gain = model.weights.ln_final.w.detach()
    own = centre(cache["resid_post[1]"][0, -1], traits) * gain @ model.weights.W_U.detach()
    parts = torch.stack([project_value_vectors(model, 1)[4], own], dim=1).double()
    weights = torch.linalg.lstsq(parts, change.double()[:, None]).solution
    rest = change.double() - (parts @ weights)[:, 0]
    assert float(rest.norm()) < 0.02 * float(change.norm())
    scale = float(norm_scale(cache["resid_post[1]"][0, -1], traits))
    assert float(weights[0]) == pytest.approx(1 / scale, rel=0.02)


@pytest.mark.parametrize("against", [None, [7, 8, 9]])
def test_the_best_neurons_of_all_layers(model, against):
    target = [4, 11]
    found = find_value_vectors(model, target, against=against, k=9, n_tokens=3)
    scores = {}
    for layer in range(2):
        logits = project_value_vectors(model, layer)
        for neuron in range(52):
            row = (logits[neuron] - logits[neuron].mean()) / logits[neuron].std()
            scores[layer, neuron] = float(row[target].mean() - (row[against].mean() if against else 0))
            if (layer, neuron) == (int(found.layer[0]), int(found.neuron[0])):
                assert found.token_ids[0].tolist() == row.argsort(descending=True)[:3].tolist()
    wanted = sorted(scores, key=lambda key: -scores[key])[:9]
    assert list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True)) == wanted
    assert found.score.tolist() == pytest.approx([scores[key] for key in wanted], abs=1e-4)
    assert found.names[0] == f"L{wanted[0][0]}N{wanted[0][1]}"
    # without a tokenizer tokens are their ids
    assert found.tokens[0] == tuple(map(str, found.token_ids[0].tolist()))


def test_clusters_are_set_and_the_control_has_others(make_hf_model):
    model = interp.load_model(make_hf_model("qwen3"))
    found = find_value_vectors(model, [5], k=12)
    cluster, control = clamp_neurons(model, found, 3.0), clamp_random(model, found, 3.0, seed=2)
    for one, other in zip(cluster.steps, control.steps, strict=True):
        assert one.site == other.site
        assert len(one.operation.neurons) == len(other.operation.neurons)
        assert not set(one.operation.neurons.tolist()) & set(other.operation.neurons.tolist())
    with torch.no_grad(), cluster.apply(model, strength=1.0):
        after = interp.capture(model, TOKENS, "mlp_post")["mlp_post"]
    for layer, neuron in zip(found.layer.tolist(), found.neuron.tolist(), strict=True):
        torch.testing.assert_close(after[layer, ..., neuron], torch.full((1, 4), 3.0))
    assert not torch.equal(
        clamp_random(model, found, 3.0, seed=3).steps[0].operation.neurons, control.steps[0].operation.neurons
    )
    everything = find_value_vectors(model, [5], k=60, layers=[1, 0])
    with pytest.raises(SteeringError, match="choose fewer"):
        clamp_random(model, everything, 3.0)


def test_a_cluster_makes_its_words_likelier_and_random_neurons_do_not(mix):
    ids = attribute_token_ids(mix, "sentiment")
    found = find_value_vectors(mix, ids["positive"], k=10)
    text = torch.stack(list(read_neutral(mix, n=16, length=32).rows))

    def share(steering):
        with torch.no_grad(), steering.apply(mix, strength=1.0):
            return float(mix(text).softmax(-1)[..., ids["positive"]].sum(-1).mean())

    with torch.no_grad():
        plain = float(mix(text).softmax(-1)[..., ids["positive"]].sum(-1).mean())
    random = [share(clamp_random(mix, found, 6.0, seed)) for seed in range(3)]
    assert share(clamp_neurons(mix, found, 6.0)) > 5 * plain
    assert max(random) < 2 * plain


def test_words_are_single_tokens(make_hf_model, mix):
    model = interp.load_model(make_hf_model("gpt2"), tokenizer=make_tokenizer(53))
    assert read_words(model, ["w5", "w9"]).tolist() == [5, 9]
    assert find_value_vectors(model, ["w5"], k=1, n_tokens=53).target == ("w5",)
    assert read_words(mix, ["good", "bad"]).tolist() == [
        int(mix.to_tokens(w, False)[0, 0]) for w in ("good", "bad")
    ]
    for words, message in (
        (["good bad"], "no single token"),
        (["zyzzyva"], "no single token"),
        ([604], "token ids lie in 0..603"),
        ([], "at least one target"),
        ("good", r"a list of words, such as \['good'\]"),
        (["good", "good"], "different ones"),
    ):
        with pytest.raises(SteeringError, match=message):
            read_words(mix, words)


def test_bad_numbers(make_hf_model):
    model = interp.load_model(make_hf_model("gpt2"))
    for options, message in (
        (dict(k=0), "k lies in 1..104"),
        (dict(k=53, layers=[0]), "k lies in 1..52"),
        (dict(n_tokens=54), "n_tokens in 1..53"),
        (dict(layers=[0, 0]), "different ones"),
        (dict(layers=[]), "at least one layer"),
        (dict(layers=[2], k=1), "layers 0 to 1; got 2"),
    ):
        with pytest.raises(SteeringError, match=message):
            find_value_vectors(model, [3], **options)
