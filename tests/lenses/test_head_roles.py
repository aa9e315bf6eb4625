"""Head scores: against sums written out, and on prompts and heads whose score is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_zoo import Specimen, make_bare
from tiny_models import make_hf_model
from word_tokenizer import make_tokenizer

import interp
from interp.errors import LensError, TaskError
from interp.lenses import head_roles
from interp.tasks import from_tokens

SEQ_LEN = 9


def watch_prompts(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tokens of every run that the scores make."""
    seen: list[torch.Tensor] = []

    def watched(model: Any, tokens: torch.Tensor, *args: Any, **options: Any) -> Any:
        seen.append(tokens)
        return interp.capture(model, tokens, *args, **options)

    monkeypatch.setattr(head_roles, "capture", watched)
    return seen


def test_scores_on_repeats_written_out(kind: Specimen, monkeypatch: pytest.MonkeyPatch, run_naive: Any):
    seen = watch_prompts(monkeypatch)
    found = interp.score_heads(kind.model, n=3, seq_len=SEQ_LEN, seed=4, batch_size=2)
    tokens = torch.cat(seen)
    assert tokens.shape == (3, 2 * SEQ_LEN)
    record = run_naive(kind, tokens).record
    for layer in range(kind.model.traits.n_layers):
        for head in range(kind.model.traits.n_heads):
            weights: dict[str, list[float]] = {"previous_token": [], "duplicate_token": [], "induction": []}
            for row in range(3):
                pattern = record["pattern", layer][row, head]
                for i in range(1, 2 * SEQ_LEN):
                    weights["previous_token"].append(float(pattern[i, i - 1]))
                for i in range(SEQ_LEN, 2 * SEQ_LEN):
                    first = tokens[row].tolist().index(int(tokens[row, i]))
                    weights["duplicate_token"].append(float(pattern[i, first]))
                    weights["induction"].append(float(pattern[i, first + 1]))
            for role, listed in weights.items():
                score = float(found[role][layer, head])
                assert score == pytest.approx(sum(listed) / len(listed), abs=1e-5), (role, layer, head)


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_scores_on_a_task_written_out(kind: Specimen, side: str, make_prompts: Any, run_naive: Any):
    task = make_prompts(side)
    found = interp.score_heads(kind.model, roles=(), task=task, batch_size=2)
    assert set(found.values) == {"name_mover", "s_inhibition"}
    record = run_naive(kind, task.clean, task.attention_mask).record
    for role, label in (("name_mover", "IO"), ("s_inhibition", "S2")):
        for layer in range(kind.model.traits.n_layers):
            expected = torch.zeros(kind.model.traits.n_heads, dtype=torch.float64)
            for row in range(len(task)):
                offset = int(task.offsets[row])
                source = offset + int(task.labels[label][row])
                expected += record["pattern", layer][row, :, int(task.end[row]), source] / len(task)
            torch.testing.assert_close(found[role][layer].double(), expected, atol=1e-5, rtol=0)


def with_tokenizer(seed: int = 0) -> Any:
    return interp.load_model(make_bare("gpt2", seed), tokenizer=make_tokenizer())


def test_prompts_have_bos_and_no_other_special_token(monkeypatch: pytest.MonkeyPatch):
    model, seen = with_tokenizer(), watch_prompts(monkeypatch)
    interp.score_heads(model, n=5, seq_len=20)
    tokens = torch.cat(seen)
    assert model.prepend_bos and tokens.shape == (5, 41)
    assert (tokens[:, 0] == 0).all() and int(tokens[:, 1:].min()) >= 2
    assert torch.equal(tokens[:, 1:21], tokens[:, 21:])
    assert all(len(set(row)) == 20 for row in tokens[:, 1:21].tolist())


@pytest.mark.parametrize(
    ("role", "back"), [("previous_token", 1), ("duplicate_token", 12), ("induction", 11)]
)
def test_a_head_that_only_plays_one_role_scores_one(role: str, back: int):
    """A pattern set by hand to look ``back`` tokens back, but never at BOS, which must not count."""
    model = with_tokenizer()

    def look_back(pattern: torch.Tensor) -> torch.Tensor:
        at = torch.arange(pattern.shape[-1])
        return ((at[:, None] - at[None] == back) & (at[None] > 0)).to(pattern).expand_as(pattern)

    with interp.intervene(model, [interp.apply("pattern[1.2]", look_back)]):
        found = interp.score_heads(model, n=2, seq_len=12)
    for name in found.values:
        expected = 1.0 if name == role else 0.0
        assert float(found[name][1, 2]) == pytest.approx(expected, abs=1e-6)


def test_the_same_seed_gives_the_same_scores(gpt2: Specimen):
    first, again, other = (interp.score_heads(gpt2.model, n=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first["induction"], again["induction"])
    assert not torch.equal(first["induction"], other["induction"])


def test_the_record_says_what_was_measured(gpt2: Specimen, make_prompts: Any):
    found = interp.score_heads(gpt2.model, task=make_prompts(), n=2, seed=7)
    assert list(found.values) == [
        "previous_token",
        "duplicate_token",
        "induction",
        "name_mover",
        "s_inhibition",
    ]
    assert "END to IO" in found.roles["name_mover"].definition
    assert {role.units for role in found.roles.values()} == {"mean attention weight"}
    notes = found.provenance.notes
    assert any("2 sequences of 25 random tokens" in note and "seed 7" in note for note in notes)
    assert any("task 'random'" in note for note in notes)


def test_a_task_with_one_of_the_labels_brings_one_role(gpt2: Specimen, make_prompts: Any):
    task = make_prompts()
    only_io = replace(task, labels={"IO": task.labels["IO"]})
    assert list(interp.score_heads(gpt2.model, roles=["induction"], task=only_io, n=1).values) == [
        "induction",
        "name_mover",
    ]


def with_few_tokens() -> Any:
    return interp.load_model(make_hf_model("gpt2", d_vocab=10))


def test_what_has_no_meaning_is_refused(gpt2: Specimen, make_prompts: Any):
    model, task = gpt2.model, make_prompts()
    bare = from_tokens(task.clean, task.corrupted, answers=task.answers, wrong=task.wrong)
    with pytest.raises(LensError, match="did you mean 'induction'"):
        interp.score_heads(model, roles=["inductoin"])
    with pytest.raises(LensError, match="needs a task that labels IO"):
        interp.score_heads(model, roles=["name_mover"])
    with pytest.raises(LensError, match="name_mover needs IO"):
        interp.score_heads(model, task=bare)
    with pytest.raises(LensError, match="no head role was asked for"):
        interp.score_heads(model, roles=())
    with pytest.raises(LensError, match="seq_len of 2 to 32"):
        interp.score_heads(model, seq_len=33)
    with pytest.raises(LensError, match="n of at least 1"):
        interp.score_heads(model, n=0)
    with pytest.raises(TaskError, match="Lower the length"):
        interp.score_heads(with_few_tokens(), seq_len=10)
