"""LinEAS: loss and gradients against the naive model, what the maps do, sparsity, and interrupts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_transport import naive_distance, naive_pooled, numeric_gradient, random_rows
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor

import interp
from interp.errors import RecordError, SteeringError
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.results import SteeringLog
from interp.steering.learn import FitInterrupted, LinEASConfig, fit_lineas
from interp.steering.learn.lineas import _Fit
from interp.steering.learn.pooled import pooled_under, read_rows, sites_of_layers
from interp.steering.operations import AffineMap
from interp.types import parse_site

SOURCE, TARGET = random_rows(1, 6), random_rows(2, 5)


def tiny(family: str = "gpt2", dtype: torch.dtype = torch.float32, **sizes: Any) -> Model:
    return interp.load_model(make_hf_model(family, dtype=dtype, **sizes))


def begun(model: Model, sites: str, config: LinEASConfig | None = None) -> _Fit:
    """A fit before its first step."""
    places = sites_of_layers(model, sites)
    rows = read_rows(model, SOURCE, "source")
    with torch.no_grad():
        wanted = pooled_under(model, dict.fromkeys(places), *read_rows(model, TARGET, "target").batch())
        start = pooled_under(model, dict.fromkeys(places), *rows.batch())
    return _Fit(model, config or LinEASConfig(equal_sites=False), rows, start, wanted)


def unsettle(fit: _Fit) -> None:
    """Away from the identity, where all gradients are of use."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for offset in fit.offsets.values():
            offset += 0.2 * torch.randn(offset.shape, generator=draw).to(offset)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_naive_maps_on_one_prompt_at_a_time(family: str) -> None:
    # in double precision Hugging Face's Gemma 2 gives NaN at padding, and above it at all tokens
    model = tiny(family, torch.float32 if family == "gemma2" else torch.float64)
    sites = "resid_post" if family == "gpt_neox" else "mlp_out"
    with torch.no_grad():
        fit = begun(model, sites)
        unsettle(fit)
        found = fit.losses(0)
    maps = {site: (lambda h, o=offset: h * (1 + o[0]) + o[1]) for site, offset in fit.offsets.items()}
    steered = naive_pooled(model, SOURCE, list(maps), maps)
    goal = naive_pooled(model, TARGET, list(maps))
    close = {"rtol": 1e-4, "atol": 1e-4} if family == "gemma2" else {"rtol": 1e-8, "atol": 1e-8}
    for site in maps:
        expected = naive_distance(steered[site], goal[site]).sum()
        torch.testing.assert_close(found[str(site)].double(), expected, **close)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("sites", ["resid_post", "z", "resid_post[0]@-1"])
def test_gradients_through_the_model_by_finite_differences(family: str, sites: str) -> None:
    model = tiny(family, torch.float64)
    fit = begun(model, sites)
    unsettle(fit)
    # Llama's norms are in single precision whatever its weights are: a small step would be rounding
    step, close = (1e-3, 1e-2) if family == "llama" else (1e-6, 1e-5)

    def loss() -> Tensor:
        return torch.stack(list(fit.losses(0).values())).mean()

    gradients = torch.autograd.grad(loss(), list(fit.offsets.values()))
    for offset, gradient in zip(fit.offsets.values(), gradients, strict=True):
        for index in ((0, 0), (0, 7), (1, 3)):
            expected = numeric_gradient(lambda: float(loss().detach()), offset, index, step)
            assert float(gradient[index]) == pytest.approx(expected, rel=close, abs=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_lower_maps_get_gradients_from_higher_sites() -> None:
    fit = begun(tiny(), "resid_post")
    parts = fit.losses(0)
    low, high = fit.offsets.values()
    assert bool(torch.autograd.grad(parts["resid_post[1]"], low, retain_graph=True)[0].any())
    assert torch.autograd.grad(parts["resid_post[0]"], high, allow_unused=True)[0] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_steering_leaves_the_distances_that_the_fit_says(family: str) -> None:
    model = tiny(family)
    digest = digest_weights(model)
    log = SteeringLog()
    steering = fit_lineas(model, SOURCE, TARGET, "resid_post", LinEASConfig(40, 0.02), log=log)
    record = log.record()
    assert digest_weights(model) == digest == steering.model_digest
    assert record.steps.tolist() == list(range(41))
    assert record.parts == ("resid_post[0]", "resid_post[1]")
    torch.testing.assert_close(record.losses[0], torch.ones(2).double(), rtol=1e-4, atol=1e-4)
    assert float(record.loss[-1]) < 0.6
    assert steering.figures["loss"] == pytest.approx(float(record.loss[-1]))
    assert steering.figures["loss at start"] == pytest.approx(1)
    sites = [step.site for step in steering.steps]
    before, goal = naive_pooled(model, SOURCE, sites), naive_pooled(model, TARGET, sites)
    with steering.apply(model, strength=1.0):
        after = naive_pooled(model, SOURCE, sites)
    left = [
        naive_distance(after[site], goal[site]).sum() / naive_distance(before[site], goal[site]).sum()
        for site in sites
    ]
    torch.testing.assert_close(torch.stack(left), record.losses[-1], rtol=1e-3, atol=1e-3)


def test_sites_without_equal_weight_are_in_squared_units_of_activation() -> None:
    model = tiny()
    log = SteeringLog()
    fit_lineas(model, SOURCE, TARGET, "mlp_out", LinEASConfig(1, equal_sites=False), log=log)
    sites = [parse_site("mlp_out[0]"), parse_site("mlp_out[1]")]
    before, goal = naive_pooled(model, SOURCE, sites), naive_pooled(model, TARGET, sites)
    expected = torch.stack([naive_distance(before[site], goal[site]).sum() for site in sites])
    torch.testing.assert_close(log.record().losses[0], expected, rtol=1e-4, atol=1e-4)
    assert "share" not in log.record().loss_name


def test_positions_bound_what_is_pooled_and_where_it_acts() -> None:
    model, log = tiny(), SteeringLog()
    config = LinEASConfig(2, 0.05, equal_sites=False)
    steering = fit_lineas(model, SOURCE, TARGET, "resid_post[0]@-1", config, log=log)
    last = [
        torch.cat(
            [
                interp.capture(model, torch.tensor([row]), ["resid_post[0]@-1"])["resid_post[0]@-1"]
                for row in side
            ]
        )
        for side in (SOURCE, TARGET)
    ]
    expected = naive_distance(*last).sum()
    torch.testing.assert_close(log.record().losses[0, 0], expected, rtol=1e-4, atol=1e-4)
    with steering.apply(model, strength=1.0) as applied:
        cache = interp.capture(model, torch.tensor([SOURCE[0]]), ["resid_post[0]"])
    plain = interp.capture(model, torch.tensor([SOURCE[0]]), ["resid_post[0]"])
    changed = (cache["resid_post[0]"] != plain["resid_post[0]"]).any(-1)[0]
    assert changed.tolist() == [False] * (len(SOURCE[0]) - 1) + [True]
    assert applied.acted[0, -1] == 1


def grade(optimizer: str, sparsity: float, group: str = "number") -> tuple[float, Any]:
    model = tiny()
    config = LinEASConfig(25, optimizer=optimizer, sparsity=sparsity, group=group)  # type: ignore[arg-type]
    steering = fit_lineas(model, SOURCE, TARGET, "mlp_out", config)
    return steering.figures["kept share"], steering


def test_sparsity_is_graded_under_sgd_and_all_or_none_under_adam() -> None:
    lambdas = (0.003, 0.01, 0.03, 1.0)
    sgd = [grade("sgd", one)[0] for one in lambdas]
    assert sgd[0] > 0.9 and sgd[-1] == 0
    assert sgd == sorted(sgd, reverse=True)
    assert sum(0.05 < share < 0.95 for share in sgd) >= 2
    # the same lambdas leave Adam with every neuron, until it has none
    adam = [grade("adam", one)[0] for one in (0.003, 0.03)]
    assert min(adam) == 1
    assert grade("adam", 100.0)[0] == 0


@pytest.mark.parametrize("group", ["neuron", "site"])
def test_groups_go_together(group: str) -> None:
    _, steering = grade("sgd", 0.03, group)
    for step in steering.steps:
        assert isinstance(step.operation, AffineMap)
        changed = torch.stack([step.operation.weight != 1, step.operation.bias != 0])
        if group == "site":
            assert len(changed.unique()) == 1
        else:
            assert torch.equal(changed[0], changed[1])


def test_too_much_sparsity_leaves_the_model_as_it_is() -> None:
    _, steering = grade("sgd", 10.0)
    model, tokens = tiny(), torch.tensor([SOURCE[0]])
    with steering.apply(model, strength=1.0):
        after = model(tokens)
    torch.testing.assert_close(after, model(tokens))


def test_the_ends_of_a_fit_in_batches_are_of_all_prompts() -> None:
    model = tiny()
    steering = fit_lineas(model, SOURCE, TARGET, "mlp_out", LinEASConfig(5, batch_size=2))
    assert steering.figures["loss at start"] == pytest.approx(1)
    fit = begun(model, "mlp_out", LinEASConfig())
    with torch.no_grad():
        for step, offset in zip(steering.steps, fit.offsets.values(), strict=True):
            parts = step.operation.tensors()
            offset.copy_(torch.stack([parts["weight"] - 1, parts["bias"]]))
        wanted = torch.stack(list(fit.losses(0).values())).mean()
    assert steering.figures["loss"] == pytest.approx(float(wanted), rel=1e-4)


def test_a_prompt_too_short_for_the_position_is_said() -> None:
    short = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6, 7, 8, 9])]
    with pytest.raises(SteeringError, match=r"chooses no token of the prompts in rows \[0\]"):
        fit_lineas(tiny(), short, [torch.arange(6), torch.arange(7)], "mlp_out[0]@4", LinEASConfig(1))


def test_the_same_seed_gives_the_same_maps_and_batches_differ_by_seed() -> None:
    model = tiny()
    first, again, other = (
        fit_lineas(model, SOURCE, TARGET, "mlp_out[0]", LinEASConfig(5, batch_size=3, seed=seed))
        for seed in (0, 0, 1)
    )
    biases = [one.steps[0].operation.tensors()["bias"] for one in (first, again, other)]
    assert torch.equal(biases[0], biases[1]) and not torch.equal(biases[0], biases[2])


class StopAt(SteeringLog):
    """A log that is interrupted at a step."""

    def append(self, step: int, losses: Any, measures: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt
        super().append(step, losses, measures)


def test_an_interrupt_leaves_what_there_is() -> None:
    model, log = tiny(), StopAt()
    with pytest.raises(FitInterrupted, match="after 3 of 50 steps") as caught:
        fit_lineas(model, SOURCE, TARGET, "mlp_out", LinEASConfig(50), log=log)
    assert caught.value.steering.figures["steps"] == 3
    assert len(log) == 3
    with caught.value.steering.apply(model, strength=1.0):
        assert torch.isfinite(model(torch.tensor([SOURCE[0]]))).all()


def test_a_log_holds_one_fit() -> None:
    model, log = tiny(), SteeringLog()
    fit_lineas(model, SOURCE, TARGET, "mlp_out[0]", LinEASConfig(1), log=log)
    with pytest.raises(RecordError, match="one fit"):
        fit_lineas(model, SOURCE, TARGET, "mlp_out[0]", LinEASConfig(1), log=log)


@pytest.mark.parametrize(
    ("sites", "source", "message"),
    [
        ("mlp_out", SOURCE[:1], "got 1 source"),
        ("mlp_out", TARGET, "the same activations"),
        (["mlp_out[0]", "mlp_out[0]"], SOURCE, "each of them once"),
        (["mlp_out[0]@-1", "mlp_out[0]"], SOURCE, "each of them once"),
        (parse_site("mlp_out[0]").for_rows(1), SOURCE, "names rows"),
        ("pattern[0]", SOURCE, "whole vectors of tokens"),
        (parse_site("mlp_out[0]").within(torch.ones(36)), SOURCE, "whole vectors of tokens"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sites: Any, source: Any, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        fit_lineas(tiny(), source, TARGET, sites, LinEASConfig(1))


def test_a_loss_that_runs_away_is_refused() -> None:
    with pytest.raises(SteeringError, match="smaller learning rate"):
        fit_lineas(tiny(), SOURCE, TARGET, "resid_post", LinEASConfig(50, 1e30, "sgd"))


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"optimizer": "lbfgs"},
        {"sparsity": -1.0},
        {"group": "layer"},
        {"batch_size": 1},
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SteeringError):
        LinEASConfig(**fields)
