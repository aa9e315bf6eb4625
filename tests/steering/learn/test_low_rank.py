"""Low-rank edits: the loss they are trained on, its gradient, where they act, and what the model writes then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_transport import numeric_gradient
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor
from word_tokenizer import make_tokenizer

import interp
from interp.errors import SteeringError
from interp.models.model import Model
from interp.results import SteeringLog
from interp.steering.learn import FitInterrupted, LowRankConfig, fit_low_rank
from interp.steering.learn.completions import read_completions
from interp.steering.learn.low_rank import _Fit, next_token_loss
from interp.steering.learn.pooled import sites_of_layers
from interp.steering.operations import LowRank


def tiny(family: str = "gpt2", dtype: torch.dtype = torch.float32) -> Model:
    return interp.load_model(make_hf_model(family, dtype=dtype))


def token_rows(n: int = 5, length: int = 7) -> tuple[Tensor, Tensor]:
    """Rows whose last three tokens count."""
    tokens = torch.randint(1, 53, (n, length), generator=torch.Generator().manual_seed(4))
    counts = torch.zeros(n, length, dtype=torch.bool)
    counts[:, -3:] = True
    return tokens, counts


def plain_loss(model: Model, tokens: Tensor, counts: Tensor) -> float:
    """Mean loss of the tokens that count, one row at a time."""
    total, n = 0.0, 0
    for row, wanted in zip(tokens, counts, strict=True):
        log = model(row[None])[0].double().log_softmax(-1)
        for t in range(1, len(row)):
            if wanted[t]:
                total, n = total - float(log[t - 1, row[t]]), n + 1
    return total / n


@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_as_no_change_and_ends_with_the_loss_it_says(family: str) -> None:
    model, (tokens, counts) = tiny(family), token_rows()
    log = SteeringLog()
    with torch.no_grad():
        plain = plain_loss(model, tokens, counts)
    config = LowRankConfig(rank=3, steps=25, learning_rate=0.03, batch_size=5)
    steering = fit_low_rank(model, (tokens, counts), "resid_post", config, log=log)
    losses = log.record().loss
    assert float(losses[0]) == pytest.approx(plain, rel=1e-4)
    assert float(losses[-1]) < 0.8 * plain
    with torch.no_grad(), steering.apply(model, strength=1.0):
        assert plain_loss(model, tokens, counts) == pytest.approx(float(losses[-1]), rel=1e-3)
    assert steering.figures["loss"] == pytest.approx(float(losses[-1]))
    for step in steering.steps:
        assert isinstance(step.operation, LowRank) and step.operation.rotation.shape == (3, 36)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("sites", ["resid_post[0]", "z[0]@2", "mlp_out"])
def test_gradients_by_finite_differences(sites: str) -> None:
    model = tiny(dtype=torch.float64)
    rows = read_completions(model, token_rows())
    config = LowRankConfig(rank=2, batch_size=5)
    fit = _Fit(model, config, rows, sites_of_layers(model, sites), next_token_loss)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in fit.parameters:
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)

    def loss() -> Tensor:
        return fit.losses(0)["completions"]

    gradients = torch.autograd.grad(loss(), fit.parameters)
    for parameter, gradient in zip(fit.parameters, gradients, strict=True):
        for index in [(0,) * parameter.ndim, tuple(size - 1 for size in parameter.shape)]:
            expected = numeric_gradient(lambda: float(loss().detach()), parameter, index, 1e-6)
            assert float(gradient[index]) == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.fixture(scope="module")
def speaking() -> Model:
    return interp.load_model(make_hf_model("llama"), tokenizer=make_tokenizer())


WORDS = [f"w{token}" for token in range(5, 25)]


def test_prompts_are_completed_as_in_the_examples_and_by_the_prompts_last_token_alone(
    speaking: Model,
) -> None:
    some = WORDS
    prompts = [" ".join(w for w in some[i : i + 2 + i % 3]) for i in range(4)]
    wanted = " " + some[9]
    examples = [(prompt, wanted) for prompt in prompts]
    config = LowRankConfig(rank=2, steps=60, learning_rate=0.05, batch_size=2)
    steering = fit_low_rank(speaking, examples, "resid_post[1]@-1", config)
    target = speaking.to_tokens(wanted, prepend_bos=False)[0]
    assert len(target) == 1
    tokens, mask = speaking.to_padded_tokens(prompts, padding_side="left")
    with steering.apply(speaking, strength=1.0) as applied:
        after = speaking(tokens, mask)[:, -1]
        written = speaking.generate(tokens, 1, mask)[:, -1]
    assert written.tolist() == [int(target[0])] * len(prompts)
    assert after.argmax(-1).tolist() == written.tolist()
    assert applied.acted[:, : tokens.shape[1]].count_nonzero(1).tolist() == [1] * len(prompts)


def test_generated_positions_are_those_of_the_completion(speaking: Model) -> None:
    some = WORDS
    examples = [(some[0], f" {some[1]} {some[2]}")]
    rows = read_completions(speaking, examples)
    batch = rows.batch([0])
    n_prompt = len(speaking.to_tokens(some[0])[0])
    assert batch.prompt.n_columns == n_prompt
    assert batch.scored.tolist() == [[False] * n_prompt + [True, True]]
    steering = fit_low_rank(speaking, examples, "resid_post[0]@gen", LowRankConfig(steps=2))
    with speaking.continuing(batch.prompt), steering.apply(speaking, strength=1.0) as applied:
        speaking(batch.tokens, batch.mask)
    assert (applied.acted[0] != 0).tolist() == batch.scored[0].tolist()


def test_batches_pad_prompts_on_the_left_and_completions_on_the_right(speaking: Model) -> None:
    a, b, c = WORDS[:3]
    rows = read_completions(speaking, [(a, f" {b} {c}"), (f"{a} {b} {c}", f" {a}")])
    batch = rows.batch([0, 1])
    first = speaking.to_tokens(a)[0].tolist()
    whole = speaking.to_tokens(f"{a} {b} {c}")[0].tolist()
    pad = len(whole) - len(first)
    assert batch.tokens[0, pad : len(whole)].tolist() == first
    assert batch.tokens[1, : len(whole)].tolist() == whole
    assert batch.mask[0, : len(whole)].tolist() == [False] * pad + [True] * len(first)
    assert batch.scored.sum(1).tolist() == [2, 1]
    # losses of a batch are those of its rows alone
    fits = [
        _Fit(
            speaking, LowRankConfig(batch_size=2), one, sites_of_layers(speaking, "z[0]@-1"), next_token_loss
        )
        for one in (
            rows,
            read_completions(speaking, [(a, f" {b} {c}")]),
            read_completions(speaking, [(f"{a} {b} {c}", f" {a}")]),
        )
    ]
    whole_loss, *alone = (float(fit.losses(0)["completions"].detach()) for fit in fits)
    assert whole_loss == pytest.approx((2 * alone[0] + alone[1]) / 3, rel=1e-4)


def test_any_objective_of_the_logits() -> None:
    model, rows = tiny(), token_rows()

    def silence(logits: Tensor, tokens: Tensor, scored: Tensor) -> Tensor:
        return logits.log_softmax(-1)[..., 7][scored].mean()

    log = SteeringLog()
    config = LowRankConfig(steps=15, learning_rate=0.05, batch_size=5)
    fit_low_rank(model, rows, "resid_post[1]", config, objective=silence, log=log)
    assert float(log.record().loss[-1]) < float(log.record().loss[0]) - 1
    assert log.record().loss_name == "objective"


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (lambda logits, tokens, scored: logits.sum((1, 2)), r"shape \[5\]"),
        (lambda logits, tokens, scored: torch.tensor(1.0), "without a gradient"),
    ],
)
def test_an_objective_is_one_number_with_a_gradient(objective: Any, said: str) -> None:
    with pytest.raises(SteeringError, match=said):
        fit_low_rank(tiny(), token_rows(), "mlp_out[0]", LowRankConfig(1, 1), objective=objective)


def test_every_example_comes_once_before_any_comes_again() -> None:
    model = tiny()
    rows = read_completions(model, token_rows(7))
    fit = _Fit(model, LowRankConfig(batch_size=2), rows, sites_of_layers(model, "z[0]"), next_token_loss)
    drawn = [number for _ in range(7) for number in fit._next()]
    assert sorted(drawn[:7]) == sorted(drawn[7:]) == list(range(7))


def test_the_same_seed_gives_the_same_edit() -> None:
    model, rows = tiny(), token_rows()
    first, again, other = (
        fit_low_rank(model, rows, "z[1]", LowRankConfig(steps=3, batch_size=2, seed=seed)).steps[0].operation
        for seed in (0, 0, 1)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(*(one.tensors().values() for one in (first, again)), strict=True)
    )
    assert not torch.equal(first.tensors()["rotation"], other.tensors()["rotation"])


def test_an_interrupt_leaves_what_there_is() -> None:
    class StopAt(SteeringLog):
        def append(self, step: int, losses: Any, measures: Any) -> None:
            if step == 2:
                raise KeyboardInterrupt
            super().append(step, losses, measures)

    with pytest.raises(FitInterrupted, match="after 2 of 9 steps") as caught:
        fit_low_rank(tiny(), token_rows(), "z[1]", LowRankConfig(steps=9), log=StopAt())
    assert caught.value.steering.figures["steps"] == 2


def test_what_cannot_be_learned_is_refused(speaking: Model) -> None:
    word = WORDS[0]
    tokens, counts = token_rows()
    first_only = torch.zeros_like(counts)
    first_only[:, 0] = True
    for model, examples, message in (
        (speaking, [], "no examples"),
        (speaking, [(word, "")], "empty prompt or completion"),
        (speaking, [word], "pair of texts"),
        (tiny(), (tokens, first_only), "no token that anything predicts"),
        (tiny(), (tokens, counts[:, 1:]), "a mask of that shape"),
        (tiny(), (tokens.float(), counts), "integer ids"),
    ):
        with pytest.raises(SteeringError, match=message):
            fit_low_rank(model, examples, "z[0]", LowRankConfig(steps=1))  # type: ignore[arg-type]
    with pytest.raises(SteeringError, match="at most 36"):
        fit_low_rank(tiny(), (tokens, counts), "resid_post[0]", LowRankConfig(rank=37, steps=1))


@pytest.mark.parametrize(
    "fields", [{"rank": 0}, {"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": -1.0}]
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SteeringError, match="at least 1"):
        LowRankConfig(**fields)
