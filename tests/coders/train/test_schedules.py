"""How long training is, what its schedules give, and that a wanted L0 is reached."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from coder_toys import KINDS, SHORT, Joint, Untold, draw_rows

from interp.coders import CoderConfig, TrainingConfig, train_coder, train_coders
from interp.coders.sources import tensor_activations
from interp.coders.train.prepare import count_steps
from interp.coders.train.schedules import Schedule, steer_sparsity
from interp.errors import CoderError

TOPK = KINDS["topk"]


def schedule_of(steps: int | None, **options: Any) -> Schedule:
    return Schedule(TrainingConfig(learning_rate=1.0, **options), CoderConfig("topk", d_sae=50, k=4), steps)


def test_the_rate_rises_holds_and_falls() -> None:
    schedule = schedule_of(100, warmup=0.1, decay=0.2)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:81] == pytest.approx([1.0] * 71)
    assert rates[81:] == pytest.approx([(100 - step) / 20 for step in range(81, 100)])
    assert min(rates) > 0
    assert [schedule_of(100, warmup=0.0, decay=0.0).rate(step) for step in (0, 99)] == [1.0, 1.0]


def test_without_a_known_end_or_with_schedule_free_nothing_falls() -> None:
    unknown = schedule_of(None, warmup=0.01)
    assert unknown.rate(49) == pytest.approx(0.5) and unknown.rate(99) == unknown.rate(10**6) == 1.0
    assert schedule_of(100, optimizer="schedule-free").rate(99) == 1.0


def test_k_goes_from_its_start_to_its_value() -> None:
    schedule = schedule_of(100, k_start=24, k_warmup=0.5)
    found = [schedule.k(step) for step in range(100)]
    assert found[0] == 24 and found[25] == 14 and found[50:] == [4] * 50
    assert sorted(found, reverse=True) == found  # type: ignore[type-var]
    assert schedule_of(100, k_start=500, k_warmup=0.5).k(0) == 50
    assert schedule_of(100).k(0) == 4


def test_the_penalty_rises_and_resampling_ends_in_time() -> None:
    schedule = schedule_of(100, sparsity_warmup=0.25, revival="resample", resample_every=0.2)
    assert [schedule.sparsity_share(step) for step in (0, 5, 25, 99)] == pytest.approx([0, 0.2, 1, 1])
    assert [step for step in range(100) if schedule.resamples(step)] == [19, 39, 59, 79]
    unknown = schedule_of(None, revival="resample", resample_every=0.5)
    assert [step for step in range(20_000) if unknown.resamples(step)] == [4999, 9999, 14999, 19999]


@pytest.mark.parametrize(
    ("options", "n", "wanted"),
    [
        ({}, 350, 11),
        ({"epochs": 3}, 350, 33),
        ({"tokens": 96}, 350, 3),
        ({"tokens": 97}, 350, 4),
        ({"tokens": 10_000}, 350, 313),
        ({"tokens": 10_000, "epochs": 2}, 350, 22),
    ],
)
def test_steps_are_known_ahead_and_taken(options: dict[str, Any], n: int, wanted: int) -> None:
    rows = draw_rows(n=n)
    training = {**SHORT, **options}
    assert count_steps(tensor_activations(rows), TrainingConfig(**training), 1) == wanted
    coder = train_coder(TOPK, rows, progress=False, **training)
    assert (coder.metadata["steps"], coder.metadata["planned_steps"]) == (wanted, wanted)
    seen = min(options.get("epochs", 1 if "tokens" not in options else math.inf) * n, wanted * 32)
    assert coder.metadata["tokens"] == seen
    # the last step had the last rate
    history = coder.history
    assert history is not None
    rate = 3e-3 * min(1 / wanted / 0.2, 1.0, wanted / (0.05 * wanted))
    assert float(history.curve("learning_rate")[-1]) == pytest.approx(rate)


def test_processes_share_rows_and_the_last_has_the_fewest() -> None:
    training = TrainingConfig(**SHORT)
    rows = tensor_activations(draw_rows(n=351))
    assert count_steps(rows, training, 2) == math.ceil(175 / 16)
    assert count_steps(Joint({"a": draw_rows(n=100)}), training, 1) == 4
    with pytest.raises(CoderError, match="1 rows cannot be shared among 2"):
        count_steps(tensor_activations(draw_rows(n=1)), training, 2)


def test_an_unknown_length_is_said() -> None:
    coder = train_coder(TOPK, Untold(draw_rows()), progress=False, **SHORT)
    assert coder.metadata["planned_steps"] is None and coder.metadata["steps"] == 11
    assert coder.history is not None and "no decay" in coder.history.provenance.notes[0]
    assert coder.history.curve("learning_rate").diff().gt(0).all()


def test_data_of_less_than_a_batch_give_one_step_and_a_warning() -> None:
    with pytest.warns(UserWarning, match="all data are 20 rows, less than a batch of 32"):
        coder = train_coder(TOPK, draw_rows(n=20), progress=False, **SHORT)
    assert coder.metadata["steps"] == 1 and coder.metadata["tokens"] == 20
    # several passes fill whole batches
    coder = train_coder(TOPK, draw_rows(n=20), progress=False, tokens=320, **SHORT)
    assert coder.metadata["steps"] == 10 and coder.metadata["tokens"] == 320


def test_options_that_no_coder_has_a_use_for_are_refused() -> None:
    with pytest.raises(CoderError, match="k_start=8 belongs to coders with a k"):
        train_coder(KINDS["standard"], draw_rows(), k_start=8, **SHORT)
    with pytest.raises(CoderError, match="steers a sparsity penalty, which topk has not"):
        train_coder(TOPK, draw_rows(), target_l0=3.0, **SHORT)
    with pytest.raises(CoderError, match="above 0"):
        train_coder(CoderConfig("standard", d_sae=24, sparsity=0.0), draw_rows(), target_l0=3.0, **SHORT)
    with pytest.raises(CoderError, match="first beta above 0"):
        TrainingConfig(optimizer="schedule-free", betas=(0.0, 0.9))


def test_the_coefficient_moves_towards_the_target_and_no_further() -> None:
    assert steer_sparsity(1.0, 10.0, 10.0) == 1.0
    assert steer_sparsity(1.0, 11.0, 10.0) == pytest.approx(1.1**0.02)
    assert steer_sparsity(1.0, 1e9, 10.0) == pytest.approx(math.exp(0.02))
    assert steer_sparsity(1.0, 0.0, 10.0) == pytest.approx(math.exp(-0.02))
    assert steer_sparsity(1e6, 1e9, 10.0) == 1e6


def test_a_wanted_l0_is_reached() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(48, 16, generator=draw), dim=1)
    fires = torch.rand(20_000, 48, generator=draw) < 0.08
    x = (fires * (1 + torch.rand(20_000, 48, generator=draw))) @ features
    options: dict[str, Any] = dict(tokens=96_000, batch_size=128, buffer_rows=4096, learning_rate=3e-3)
    configs = {kind: CoderConfig(kind, d_sae=64) for kind in ("standard", "gated", "jumprelu")}  # type: ignore[arg-type]
    coders = train_coders(configs, x, target_l0=2.0, progress=False, **options)
    for kind, coder in coders.items():
        found = float((coder.latents(x[:4000]).values > 0).sum()) / 4000
        assert found == pytest.approx(2.0, rel=0.1), kind


def test_when_a_latent_is_dead_by_default() -> None:
    training = TrainingConfig(batch_size=1000, buffer_rows=1000)
    assert [training.dead_rows(steps) for steps in (None, 5, 500, 10**6)] == [
        100_000,
        1000,
        50_000,
        1_000_000,
    ]
    assert TrainingConfig(dead_after=7).dead_rows(500) == 7
