"""The benchmark of coders in a model: its gate, its own measurement against the package's, and what it keeps."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.bench import coder_models
from interp.bench.coder_models import PARTS, CoderModelsPlan, run_coder_models
from interp.errors import BenchError
from interp.tasks import generate_tokens

SMALL = {"d_sae": 24, "k": 3, "seeds": 2, "tokens": 1500, "n_prompts": 4, "batch_size": 256, "threads": 1}


def test_a_small_run_of_every_part() -> None:
    kept: list[str] = []
    plan = CoderModelsPlan(**SMALL)  # type: ignore[arg-type]
    report = run_coder_models(plan, keep=lambda rows: kept.extend(f"{row.part}: {row.coder}" for row in rows))
    assert [table.title.split(":")[0] for table in report.tables] == list(PARTS)
    assert kept == [f"{row.part}: {row.coder}" for row in report.rows]
    assert {row.coder for row in report.rows if row.part == "all MLPs"} == {
        "transcoders", "skip transcoders", "cross-layer transcoder",
    }  # fmt: skip
    assert sum(row.part == "one MLP" for row in report.rows) == 8
    for row in report.rows:
        assert row.ce_low <= row.ce_recovered <= row.ce_high and 0 < row.l0 <= 4 * row.k
        first = next(other for other in report.rows if other.part == row.part)
        assert row.gain == pytest.approx(row.ce_recovered - first.ce_recovered, abs=1e-9)
    assert "cross-layer transcoder: CE recovered" in report.last_line


def test_its_measurement_with_gradients_is_the_packages_without() -> None:
    """Where the gradient weighs all latents alike, both ways choose and measure the same."""
    model = interp.load_model("mix-4l")
    plan = CoderModelsPlan(**SMALL)  # type: ignore[arg-type]
    rows = coder_models._read(model, generate_tokens(20, 64, seed=1), plan.site, gradients=True)
    coder = interp.train_coder(plan.config("topk"), rows, plan.training(0), progress=False)
    tokens = generate_tokens(6, 64, seed=2)
    usual = coder_models._evaluate(model, coder, tokens)
    # a top-k coder minds no gradient
    found = coder_models._evaluate_with_gradients(model, coder, plan.site, tokens)
    for figure, value in usual.items():
        assert found[figure] == pytest.approx(value, abs=2e-5), figure


def test_no_figure_where_a_coder_with_its_error_moves_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    import interp.coders.substitute as module

    right = module.substitute
    monkeypatch.setattr(
        module, "substitute", lambda model, coder, keep_error: right(model, coder, keep_error=False)
    )
    with pytest.raises(BenchError, match="moves the logits"):
        run_coder_models(CoderModelsPlan(**SMALL, parts=("choice",)))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"seeds": 1}, {"parts": ("some",)}, {"parts": ()}, {"n_prompts": 1}])
def test_bad_plans(wrong: dict[str, object]) -> None:
    with pytest.raises(BenchError):
        CoderModelsPlan(**wrong)  # type: ignore[arg-type]


def test_losses_leave_out_what_the_first_token_predicts() -> None:
    tokens = torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(1))
    found = coder_models._losses(logits, tokens)
    assert found.shape == (3, 3)
    wanted = -logits.log_softmax(-1)[1, 2, tokens[1, 3]]
    assert float(found[1, 1]) == pytest.approx(float(wanted))
