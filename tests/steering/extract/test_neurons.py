"""Expert neurons: ranked by average precision and set to what they do on positive prompts."""

from __future__ import annotations

import itertools

import pytest
import torch

import interp
from interp.errors import SteeringError
from interp.steering.contrast import read_contrast
from interp.steering.extract import extract_experts
from interp.steering.extract.detection import average_precision
from interp.steering.extract.neurons import experts_of, rank_experts
from interp.steering.neutral import read_neutral
from interp.steering.world import attribute_prompts, attribute_token_ids


def sides(n: int = 9, m: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(53, (n, 5), generator=draw), torch.randint(53, (m, 5), generator=draw)


@pytest.mark.parametrize("value", ["mean", "median"])
def test_ranks_and_values_equal_one_neuron_at_a_time(make_hf_model, value):
    model = interp.load_model(make_hf_model("gpt_neox"))
    positive, negative = sides()
    found = rank_experts(read_contrast(model, positive, negative, ["mlp_post", "embed"], pool="max"), value)
    assert [str(site) for site in found.sites] == ["mlp_post[0]", "mlp_post[1]"]
    assert found.base == pytest.approx(9 / 15)
    with torch.no_grad():
        p, n = (interp.capture(model, side, "mlp_post")["mlp_post"].amax(2) for side in (positive, negative))
    answers = torch.arange(15) < 9
    for layer in range(2):
        wanted = average_precision(torch.cat([p[layer], n[layer]]), answers)
        torch.testing.assert_close(found.precision[layer], wanted.float())
        middle = p[layer].mean(0) if value == "mean" else p[layer].median(0).values
        torch.testing.assert_close(found.value[layer], middle, atol=1e-5, rtol=1e-5)
    best = found.top(104)
    ranked = [float(found.precision[a, b]) for a, b in best]
    assert ranked == sorted(ranked, reverse=True)
    assert len({(int(a), int(b)) for a, b in best}) == 104
    for (a, b), (c, d) in itertools.pairwise(best.tolist()):
        if found.precision[a, b] == found.precision[c, d]:
            assert found.gap[a, b] >= found.gap[c, d]


def test_they_are_set_at_every_token_and_no_other_is(make_hf_model, family):
    model = interp.load_model(make_hf_model(family))
    contrast = read_contrast(model, *sides(), "mlp_post", pool="max")
    found, steering = rank_experts(contrast), experts_of(contrast, 7)
    assert steering.method == "expert-neurons"
    chosen = {tuple(row) for row in found.top(7).tolist()}
    tokens = torch.randint(53, (2, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = interp.capture(model, tokens, "mlp_post")["mlp_post"]
        with steering.apply(model, strength=1.0):
            after = interp.capture(model, tokens, "mlp_post")["mlp_post"]
    first = min(layer for layer, _ in chosen)
    for layer in range(2):
        for neuron in range(52):
            if (layer, neuron) in chosen:
                wanted = torch.full((2, 4), float(found.value[layer, neuron]))
                torch.testing.assert_close(after[layer, ..., neuron], wanted, atol=1e-5, rtol=1e-5)
            elif layer <= first:
                torch.testing.assert_close(after[layer, ..., neuron], before[layer, ..., neuron])


def test_positions_are_those_asked_for(make_hf_model):
    model = interp.load_model(make_hf_model("llama"))
    steering = extract_experts(model, *sides(), k=3, at=-1, calibrate=False)
    assert all(step.site.positions == (-1,) for step in steering.steps)


def test_the_experts_of_a_value_make_its_words_likelier(mix):
    """On neutral text, where the words of the other value become rarer."""
    ids = attribute_token_ids(mix, "sentiment")
    prompts = attribute_prompts("sentiment", 48)
    text = torch.stack(list(read_neutral(mix, n=16, length=32).rows))

    def shares() -> dict[str, float]:
        with torch.no_grad():
            likely = mix(text).softmax(-1)
        return {value: float(likely[..., words].sum(-1).mean()) for value, words in ids.items()}

    plain = shares()
    for value, other in (("positive", "negative"), ("negative", "positive")):
        steering = extract_experts(mix, prompts[value], prompts[other], calibrate=False)
        with steering.apply(mix, strength=1.0):
            steered = shares()
        assert steered[value] > 1.5 * plain[value]
        assert steered[other] < 0.7 * plain[other]


def test_bad_requests(make_hf_model):
    model = interp.load_model(make_hf_model("gpt2"))
    contrast = read_contrast(model, *sides(), "mlp_post[0]")
    with pytest.raises(SteeringError, match="52 neurons to choose from; got k=53"):
        experts_of(contrast, 53)
    with pytest.raises(SteeringError, match="did you mean 'mean'"):
        experts_of(contrast, 1, value="means")
    with pytest.raises(SteeringError, match=r"neurons are at .*; the contrast was read at embed"):
        experts_of(read_contrast(model, *sides(), "embed"))
