"""Circuits knocked out and kept across tasks, on models whose circuits are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_tasks import random_task

import interp
from interp.circuits.reuse.across_tasks import _draw_edges, _draw_heads
from interp.errors import CircuitError, PatchError
from interp.models.bundled.planted import planted_task
from interp.results import Circuit, CrossTaskAblation, Provenance

MODE = ("input->a0.h2<v>", "a0.h2->a1.h1<v>", "a1.h1->m1", "m1->logits")
VALUES = ("input->a1.h0<v>", "a1.h0->m1", "m1->logits")
QUIET = {"progress": False, "backend": "wavefront"}


@pytest.fixture(scope="module")
def micro():
    return interp.load_model("micro")


@pytest.fixture(scope="module")
def tasks():
    """Pairs of ``micro`` that differ in one thing each."""
    pairs = planted_task("micro", n=16, seed=0)
    kinds = [info["kind"] for info in pairs.info]
    return {
        kind: pairs.select([i for i, got in enumerate(kinds) if got == kind]) for kind in ("mode", "values")
    }


def named(model, *edges: str) -> Circuit:
    graph = interp.build_graph(model)
    included = torch.zeros(graph.n_edges, dtype=torch.bool)
    included[torch.from_numpy(graph.find_edges(edges))] = True
    return Circuit(graph, included, "by hand", Provenance(model.name))


@pytest.fixture(scope="module")
def circuits(micro):
    return {"mode": named(micro, *MODE), "values": named(micro, *VALUES)}


@pytest.fixture(scope="module")
def found(micro, tasks, circuits):
    return interp.ablate_across_tasks(micro, tasks, circuits, n_random=6, **QUIET)


def test_each_planted_circuit_is_enough_for_its_own_task_and_no_other(found):
    assert found.kept.diagonal().tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
    assert found.kept[0, 1] == found.kept[1, 0] == 0
    assert (found.circuits, found.tasks, found.sizes) == (("mode", "values"), ("mode", "values"), (4, 3))


def test_knocking_a_circuit_out_takes_its_own_task_and_what_shares_an_edge(micro, tasks, circuits, found):
    # both end in m1->logits
    assert found.knocked_out.abs().max() < 1e-5
    apart = {name: one.without_edges(["m1->logits"]) for name, one in circuits.items()}
    found = interp.ablate_across_tasks(micro, tasks, apart, n_random=0, **QUIET)
    assert found.knocked_out.tolist() == [
        pytest.approx([0.0, 1.0], abs=1e-4),
        pytest.approx([1.0, 0.0], abs=1e-4),
    ]
    assert found.p_values.isnan().all()


def test_performance_is_what_running_each_circuit_gives(micro, tasks, circuits, found):
    for j, (name, task) in enumerate(tasks.items()):
        runs = interp.prepare_circuits(micro, task, **QUIET)
        full, empty = runs.full.mean(), runs.empty.mean()
        assert float(found.full[j]) == pytest.approx(float(full))
        assert float(found.empty[j]) == pytest.approx(float(empty))
        for i, one in enumerate(circuits.values()):
            raw = torch.cat([runs.score(one.complement()), runs.score(one)])
            torch.testing.assert_close(found.scores[name][:, i], raw, atol=1e-5, rtol=0)
            torch.testing.assert_close(
                found.performance[:, i, j], (raw.mean(1) - empty) / (full - empty), atol=1e-5, rtol=0
            )


def test_random_circuits_are_of_the_same_size_and_fair(micro, circuits):
    graph, included = interp.build_graph(micro), circuits["mode"].included.numpy()
    asked = _draw_edges(graph, included, 5, [3, 0])
    assert (~asked.knocked_out[0] == included).all()
    assert (asked.kept[0] == included).all()
    into = np.bincount(graph.edge_reader[included], minlength=len(graph.readers))
    for left in asked.knocked_out:
        assert (np.bincount(graph.edge_reader[~left], minlength=len(graph.readers)) == into).all()
    whole = circuits["mode"]
    for kept in asked.kept[1:]:
        assert kept.sum() == 4
        assert whole.with_included(kept, "drawn").prune().n_edges == 4
    again = _draw_edges(graph, included, 9, [3, 0])
    assert all((a == b).all() for a, b in zip(asked.kept, again.kept, strict=False))
    heads = np.array([[True, False, False, True], [False, True, False, False]]).ravel()
    drawn = _draw_heads(graph, heads, 8, [0, 0]).kept
    assert {tuple(one.reshape(2, 4).sum(1)) for one in drawn} == {(2, 1)}
    assert len({one.tobytes() for one in drawn}) > 4


def test_controls_and_p_values(found):
    assert found.random.shape == (2, 2, 2, 6)
    # random edges into the same readers leave micro as it is more often than not; of random ways of three edges
    # one is the very way of the circuit
    assert found.random[0].mean() > 0.4
    assert found.random[1].flatten().sort().values.tolist() == pytest.approx([0.0] * 23 + [1.0])
    assert found.p_values[1].diagonal().tolist() == pytest.approx([1 / 7, 2 / 7])
    assert found.p_values[1, 0, 1] == 1


def test_heads_are_noised_together(micro, tasks, circuits):
    found = interp.ablate_across_tasks(micro, tasks, circuits, level="heads", n_random=4, **QUIET)
    assert (found.level, found.sizes, found.n_items) == ("heads", (2, 1), 8)
    every = [f"z[{layer}.{head}]" for layer in range(2) for head in range(4)]
    for j, (name, task) in enumerate(tasks.items()):
        for i, own in enumerate([("z[0.2]", "z[1.1]"), ("z[1.0]",)]):
            others = [site for site in every if site not in own]
            scores = interp.patch_sets(
                micro, task, [list(own), others, every], direction="noise", progress=False
            )
            knocked, kept, nothing = scores.raw.tolist()
            share = [(raw - nothing) / (scores.clean - nothing) for raw in (knocked, kept)]
            assert found.performance[:, i, j].tolist() == pytest.approx(share, abs=1e-5)
            assert (float(found.full[j]), float(found.empty[j])) == pytest.approx(
                (scores.clean, nothing), abs=1e-4
            )
            torch.testing.assert_close(found.scores[name][:, i], scores.per_prompt[:2], atol=1e-4, rtol=0)
    # the other task's heads carry nothing that differs
    assert found.knocked_out[0, 1] == found.knocked_out[1, 0] == 1


def test_intervals_over_prompts():
    model = interp.load_model("induction-2l")
    task = interp.tasks.load("induction", model, n=12, seed=0)
    one = named(model, *(f"a1.h{i}->logits" for i in range(2)), "input->a1.h0<v>", "input->a1.h1<v>")
    found = interp.ablate_across_tasks(model, {"t": task}, {"c": one}, n_random=0, confidence=0.8, **QUIET)
    wide = interp.ablate_across_tasks(model, {"t": task}, {"c": one}, n_random=0, confidence=0.99, **QUIET)
    assert bool(((found.low < found.performance) & (found.performance < found.high)).all())
    assert bool(((wide.low < found.low) & (found.high < wide.high)).all())


def test_tasks_may_differ_in_length_padding_and_metric(tmp_path):
    model = interp.load_model("induction-2l")
    tasks = {
        "short": random_task([6, 7], "right", [1, 2], seed=1),
        "long": random_task([9, 11, 8], "left", [3, 0, 2], seed=2),
    }
    one = interp.choose_circuit(interp.score_edges(model, tasks["long"], method="exact", **QUIET), 0.3)
    found = interp.ablate_across_tasks(model, tasks, {"c": one}, n_random=2, metric="loss", **QUIET)
    assert found.n_prompts == (2, 3)
    assert found.provenance.n_prompts is None
    assert found.metrics == ("loss", "loss")
    assert [table.shape for table in found.scores.values()] == [(2, 1, 2), (2, 1, 3)]
    read = CrossTaskAblation.load(found.save(tmp_path / "x"))
    assert read.to_frame().equals(found.to_frame())


def test_without_a_difference_nothing_is_defined(micro, tasks, circuits):
    task = tasks["mode"]
    same = interp.tasks.from_tokens(task.clean, task.clean, task.answers, task.wrong)
    found = interp.ablate_across_tasks(micro, {"same": same}, circuits, n_random=2, **QUIET)
    for table in (found.performance, found.low, found.high, found.p_values):
        assert table.isnan().all()


def test_refusals(micro, tasks, circuits):
    with pytest.raises(CircuitError, match="at least one task and one circuit"):
        interp.ablate_across_tasks(micro, {}, circuits)
    other = named(interp.load_model("planted-copy"), "input->logits")
    with pytest.raises(CircuitError, match="'mode' and 'copy' have different graphs"):
        interp.ablate_across_tasks(micro, tasks, {"mode": circuits["mode"], "copy": other})
    with pytest.raises(CircuitError, match=r"the model 'micro'"):
        interp.ablate_across_tasks(micro, tasks, {"copy": other}, level="heads")
    with pytest.raises(CircuitError, match="'plain' has no heads"):
        interp.ablate_across_tasks(micro, tasks, {"plain": named(micro, "input->logits")}, level="heads")
    with pytest.raises(CircuitError, match="unknown level to ablate at 'nodes'"):
        interp.ablate_across_tasks(micro, tasks, circuits, level="nodes")
    with pytest.raises(CircuitError, match="n_random be at least 0"):
        interp.ablate_across_tasks(micro, tasks, circuits, n_random=-1)
    with pytest.raises(PatchError, match="unknown backend"):
        interp.ablate_across_tasks(micro, tasks, circuits, backend="fast")
