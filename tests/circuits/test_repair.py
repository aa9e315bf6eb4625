"""Heads made to attend elsewhere: what is set, what follows, and what the controls do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_zoo import HOOKED, NAMES, specimen

import interp
from interp.circuits.reuse.attention import (
    Plan,
    Target,
    attention_edits,
    place_at_random,
    place_plan,
    read_plans,
)
from interp.errors import CircuitError, MetricError, TaskError
from interp.models.bundled.planted import planted_task
from interp.results import Repair
from interp.tasks import PromptPairs

QUIET = {"progress": False}
CASES = [
    pytest.param(name, "left", marks=[pytest.mark.hooked_transformer] if name in HOOKED else [])
    for name in NAMES
] + [("gpt2", "none"), ("gpt2", "right")]


@pytest.fixture(scope="module")
def copying():
    return interp.load_model("planted-copy"), planted_task("planted-copy", 12, 0)


def random_prompts(padding: str = "none") -> PromptPairs:
    """Five prompts with the labels S before T."""
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(1, 53, (5, 9), generator=generator)
    mask = torch.ones_like(clean).bool()
    if padding != "none":
        for row, n in enumerate((0, 3, 1, 2, 4)):
            mask[row, slice(0, n) if padding == "left" else slice(9 - n, 9)] = False
    return PromptPairs(
        clean=clean,
        corrupted=clean.flip(0).where(mask, clean),
        answers=torch.tensor([3, 4, 5, 6, 7]),
        wrong=torch.tensor([20, 21, 22, 23, 24]),
        attention_mask=None if padding == "none" else mask,
        labels={"S": torch.tensor([0, 1, 0, 2, 1]), "T": torch.tensor([3, 2, 4, 3, 2])},
        name="random",
    )


def set_row(row: list[float], wanted: dict[int, float]) -> list[float]:
    """One row of attention, written out."""
    rest = sum(value for i, value in enumerate(row) if i not in wanted)
    left = 1 - sum(wanted.values())
    if rest == 0:
        total = sum(wanted.values())
        return [wanted.get(i, 0.0) / total for i in range(len(row))] if total else row
    return [wanted[i] if i in wanted else value / rest * left for i, value in enumerate(row)]


@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 0.5)), min_size=1, max_size=2, unique_by=lambda x: x[0]
    ),
)
def test_a_row_is_set_as_written_out(row, wanted):
    row = [value / sum(row) for value in row] if sum(row) > 1e-3 else [1.0, 0.0, 0.0, 0.0]
    pattern = torch.zeros(2, 5, 5, dtype=torch.float64)
    pattern[:, 3, :4] = torch.tensor(row, dtype=torch.float64)
    before = pattern.clone()
    plan = Plan(0, 0, "END", {str(column): weight for column, weight in wanted})
    columns = torch.tensor([[column for column, _ in wanted]] * 7)
    target = Target(plan, torch.full((7,), 3), columns)
    found = target.set_attention(pattern, torch.tensor([5, 6]))
    expected = set_row(row, dict(wanted))
    assert found[0, 3, :4].tolist() == pytest.approx(expected, abs=1e-9)
    assert found[1, 3].sum() == pytest.approx(1.0)
    assert torch.equal(pattern, before)
    found[:, 3] = before[:, 3]
    assert torch.equal(found, before)


def test_shares_of_one_token_under_two_labels_add_up():
    target = Target(Plan(0, 0, "END", {"A": 0.25, "B": 0.5}), torch.tensor([2]), torch.tensor([[1, 1]]))
    found = target.set_attention(torch.tensor([[[0.0] * 3, [0.0] * 3, [0.2, 0.5, 0.3]]]), torch.tensor([0]))
    assert found[0, 2].tolist() == pytest.approx([0.1, 0.75, 0.15])


@pytest.mark.parametrize(("kind", "padding"), CASES)
def test_every_family_runs_on_with_the_pattern_that_was_asked_for(kind, padding):
    """Second route: the pattern is changed by hand, row by row, and put in whole."""
    model, task = specimen(kind).model, random_prompts(padding)
    heads = {"L1H2": {"END": {"S": 0.6, "T": 0.1}, "T": "S"}}
    found = interp.repair_attention(
        model, task, heads, metrics="logit_diff", n_random=0, batch_size=2, **QUIET
    )
    with torch.no_grad():
        cache = interp.capture(model, task.clean, "pattern[1.2]", attention_mask=task.attention_mask)
    pattern = cache["pattern[1.2]"]
    wanted = pattern.clone()
    for row in range(5):
        s, t, end = (int(task.columns_of(label)[row]) for label in ("S", "T", "END"))
        wanted[row, end] = torch.tensor(set_row(pattern[row, end].tolist(), {s: 0.6, t: 0.1}))
        wanted[row, t] = torch.tensor(set_row(pattern[row, t].tolist(), {s: 1.0}))
    with torch.no_grad(), interp.intervene(model, interp.replace("pattern[1.2]", wanted)):
        logits = model(task.clean, task.attention_mask)
    here = torch.arange(5)
    last = logits[here, task.end]
    expected = last[here, task.answers[:, 0]] - last[here, task.wrong[:, 0]]
    torch.testing.assert_close(found.after[0], expected, atol=1e-5, rtol=1e-5)
    assert (found.after - found.before).abs().max() > 1e-3
    assert not model.active_edits and not model.edit_handles
    end = next(move for move in found.moves if (move.dest, move.source) == ("END", "S"))
    there = [float(pattern[row, task.end[row], task.columns_of("S")[row]]) for row in range(5)]
    assert end.before == pytest.approx(sum(there) / 5, abs=1e-5)
    assert end.after == 0.6


def test_a_planted_head_sent_to_another_letter_copies_it(copying):
    model, task = copying
    flipped = interp.repair_attention(model, task, {"L1H0": {"END": "D"}}, n_random=6, **QUIET)
    assert flipped.metrics == ("logit_diff", "accuracy")
    # every logit is 8 times the letter copied, and D is the wrong answer
    assert flipped.after[0].tolist() == pytest.approx([-8.0] * 12, abs=1e-4)
    assert (flipped.before[1].tolist(), flipped.after[1].tolist()) == ([1.0] * 12, [0.0] * 12)
    assert flipped.gains[1].high == -1
    # other heads have no part in the answer, but for L0H0, which END does not look through
    torch.testing.assert_close(flipped.random_heads[0], flipped.before[0].expand(6, 12))
    assert flipped.p_values("random_heads").tolist() == [1.0, 1.0]
    # among the other tokens is the right one
    assert 0 < flipped.random_tokens[1].mean() < 0.5
    right = interp.repair_attention(model, task, {"a1.h0": {"END": "B"}}, n_random=0, **QUIET)
    assert right.after[0].tolist() == pytest.approx([8.0] * 12, abs=1e-4)
    assert right.p_values("random_tokens").isnan().all()


@pytest.mark.parametrize("decoy", ["L0H1", "L0H2", "L1H1", "L1H2"])
def test_decoys_may_look_anywhere(copying, decoy):
    model, task = copying
    found = interp.repair_attention(model, task, {decoy: {"END": ["D", "C"]}}, n_random=0, **QUIET)
    torch.testing.assert_close(found.after, found.before, atol=1e-5, rtol=0)
    assert found.moves[0].after == 0.5


def test_a_broken_circuit_is_repaired_by_what_the_whole_one_does(copying):
    """Predicted: a head cut off from its keys loses the task, and looking where it used to gives it back."""
    model, task = copying
    donor = interp.measure_attention(model, task, ["L1H0"])
    with interp.intervene(model, interp.zero("z[0.0]")):
        broken = interp.repair_attention(model, task, donor, n_random=2, **QUIET)
    assert broken.before[0].abs().max() < 1e-4
    assert broken.after[1].tolist() == [1.0] * 12
    torch.testing.assert_close(
        broken.after[0],
        torch.full((12,), 8 * donor["L1H0"]["END"]["B"] - 8 * donor["L1H0"]["END"]["D"]),
        atol=1e-4,
        rtol=0,
    )
    assert broken.gains[1].low == 1


def test_attention_is_measured_and_renamed(copying):
    model, task = copying
    found = interp.measure_attention(model, task, ["L0H0", "L1H0"], batch_size=5)
    assert list(found["L1H0"]["END"]) == ["A", "B", "C", "D", "END"]
    with torch.no_grad():
        pattern = interp.capture(model, task.clean, "pattern")["pattern"]
    for head, layer in (("L0H0", 0), ("L1H0", 1)):
        for label, share in found[head]["END"].items():
            columns = task.columns_of(label)
            expected = pattern[layer, torch.arange(12), 0, task.end, columns].mean()
            assert share == pytest.approx(float(expected), abs=1e-6)
    # the previous-token head, and D stands after C
    before = interp.measure_attention(model, task, ["L0H0"], dest="D", rename={"C": "C", "A": "A"})
    assert before == {"L0H0": {"D": {"C": pytest.approx(1.0, abs=1e-4), "A": pytest.approx(0.0, abs=1e-4)}}}
    renamed = interp.measure_attention(model, task, ["L1H0"], rename={"B": "IO", "C": "S", "D": "S"})
    shares = found["L1H0"]["END"]
    assert renamed == {"L1H0": {"END": {"IO": shares["B"], "S": pytest.approx(shares["C"] + shares["D"])}}}
    alike = replace(task, labels={**task.labels, "LAST": task.lengths - 1})
    with pytest.raises(CircuitError, match="labels 'END' and 'LAST' are one token of prompt 0"):
        interp.measure_attention(model, alike, ["L1H0"])


@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_random_tokens_are_seen_others_and_different(padding):
    task = random_prompts(padding)
    target = place_plan(Plan(0, 0, "END", {"S": 0.5, "T": 0.4}), task)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        drawn = place_at_random(target, task.mask, generator)
        for row, columns in enumerate(drawn.columns.tolist()):
            assert all(task.mask[row, column] and column <= task.end[row] for column in columns)
            assert not set(columns) & set(target.columns[row].tolist())
            assert len(set(columns)) == 2
            seen.add((row, *columns))
    assert len(seen) > 60
    # T of row 1 sees positions 0 to 2, all but the first two of them named
    few = place_plan(Plan(0, 0, "T", {"S": 0.5, "T": 0.4}), task)
    for _ in range(20):
        other, named = (place_at_random(few, task.mask, generator).columns[1] - task.offsets[1]).tolist()
        assert other == 0
        assert named in (1, 2)
    whole = place_plan(Plan(0, 0, "S", {"S": 1.0}), task)
    with pytest.raises(CircuitError, match="every token that S of prompt 0 sees is named"):
        place_at_random(whole, task.mask, generator)


def test_batches_change_nothing_and_metrics_may_need_the_clean_run():
    model, task = specimen("gpt2").model, random_prompts("left")
    options = {
        "metrics": ["kl", "rank", "logit_diff@T", lambda logits: logits[:, -1, 0]],
        "n_random": 2,
        **QUIET,
    }
    one = interp.repair_attention(model, task, {"L0H1": {"END": "S"}}, batch_size=2, **options)
    all_at_once = interp.repair_attention(model, task, {"L0H1": {"END": "S"}}, batch_size=64, **options)
    for name in ("before", "after", "random_heads", "random_tokens"):
        torch.testing.assert_close(getattr(one, name), getattr(all_at_once, name), atol=1e-4, rtol=1e-4)
    assert one.before[0].abs().max() < 1e-5
    assert one.after[0].min() >= 0
    assert one.higher_is_clean[:2] == (False, False)
    # T comes before END, so nothing changes there
    torch.testing.assert_close(one.after[2], one.before[2])


def test_a_task_as_its_own_donor_keeps_means_close():
    """The mean attention put into every prompt is not each prompt's own, but sums to what it was."""
    model, task = specimen("llama").model, random_prompts("right")
    donor = interp.measure_attention(model, task, ["L0H3"])
    found = interp.repair_attention(model, task, donor, n_random=0, **QUIET)
    assert [move.before for move in found.moves] == pytest.approx(
        [move.after for move in found.moves], abs=1e-6
    )


def test_records_tell_where_they_come_from(copying, tmp_path):
    model, task = copying
    found = interp.repair_attention(
        model, task, {"L1H0": {"END": "D"}}, n_random=2, metrics="probability", **QUIET
    )
    made = found.provenance
    assert (made.model, made.task, made.method, made.metric) == (
        "planted-copy",
        "planted-copy",
        "repair",
        "probability",
    )
    again = interp.repair_attention(
        model, task, {"L1H0": {"END": "D"}}, n_random=2, metrics="probability", **QUIET
    )
    assert torch.equal(found.random_tokens, again.random_tokens)
    read = Repair.load(found.save(tmp_path / "r"))
    assert read.to_frame().equals(found.to_frame())
    assert read.moves == found.moves


def test_plans_are_read():
    model = specimen("gpt2").model
    plans = read_plans({"L1H0": {"END": ["A", "B"], "T": "A"}, "a0.h3": {"END": {"A": 0.2}}}, model, 0.8)
    assert [(p.name, p.dest, dict(p.weights)) for p in plans] == [
        ("L1H0", "END", {"A": 0.4, "B": 0.4}),
        ("L1H0", "T", {"A": 0.8}),
        ("L0H3", "END", {"A": 0.2}),
    ]


def test_refusals(copying):
    model, task = copying
    with pytest.raises(
        CircuitError, match=r"'L2H0' is no head of 'planted-copy'; heads are written L0H0 to L1H2"
    ):
        interp.repair_attention(model, task, {"L2H0": {"END": "D"}})
    with pytest.raises(CircuitError, match=r"'1\.0' is no head"):
        interp.measure_attention(model, task, ["1.0"])
    with pytest.raises(CircuitError, match="of at most 1 together"):
        interp.repair_attention(model, task, {"L1H0": {"END": {"D": 0.8, "B": 0.4}}})
    with pytest.raises(CircuitError, match="a share from 0 up"):
        interp.repair_attention(model, task, {"L1H0": {"END": {"D": -0.1}}})
    with pytest.raises(CircuitError, match="at least one head"):
        interp.repair_attention(model, task, {})
    with pytest.raises(CircuitError, match="none twice"):
        interp.repair_attention(model, task, {"L1H0": {"END": "D"}, "a1.h0": {"END": "B"}})
    with pytest.raises(CircuitError, match="cannot look from A to END, which comes later in prompt 0"):
        interp.repair_attention(model, task, {"L1H0": {"A": "END"}})
    with pytest.raises(TaskError, match="unknown position label"):
        interp.repair_attention(model, task, {"L1H0": {"END": "S2"}})
    doubled = replace(task, labels={**task.labels, "LAST": task.lengths - 1})
    with pytest.raises(CircuitError, match="LAST and END are one token of prompt 0"):
        interp.repair_attention(model, doubled, {"L1H0": {"END": "D", "LAST": "B"}})
    many = {f"L{layer}H{head}": {"END": "D"} for layer, head in ((0, 0), (0, 1), (1, 0), (1, 1))}
    with pytest.raises(CircuitError, match="only 2 others are there"):
        interp.repair_attention(model, task, many, **QUIET)
    with pytest.raises(CircuitError, match=r"weight lies in 0\.\.1"):
        interp.repair_attention(model, task, {"L1H0": {"END": "D"}}, weight=1.5)
    with pytest.raises(CircuitError, match="at least one metric"):
        interp.repair_attention(model, task, {"L1H0": {"END": "D"}}, metrics=[])
    with pytest.raises(MetricError, match="did you mean 'accuracy'"):
        interp.repair_attention(model, task, {"L1H0": {"END": "D"}}, metrics="acuracy")
    assert not model.active_edits


def test_edits_are_of_patterns():
    target = Target(Plan(1, 2, "END", {"S": 1.0}), torch.tensor([3]), torch.tensor([[0]]))
    assert [str(edit) for edit in attention_edits([target], torch.tensor([0]))] == ["apply(pattern[1.2])"]
