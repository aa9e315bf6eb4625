"""What becomes of heads over training, from made-up scores."""

from __future__ import annotations

import pytest
import torch
from fake_reuse import make_development
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import RecordError
from interp.results import Graph, HeadDevelopment
from interp.results.checkpoints import COURSES


def of_heads(*rows: list[float], **changes):
    """One layer of heads, each with its sizes over the checkpoints; the threshold is 0.1."""
    table = torch.tensor(rows).T[:, None]
    n, _, heads = table.shape
    return make_development(
        range(1, n + 1), 1, heads, 0, scores={"effect": table}, errors=torch.zeros(table.shape), **changes
    )


@pytest.mark.parametrize(
    ("sizes", "course", "first"),
    [
        ([0.0, 0.05, 0.2], "appears", 3),
        ([0.0, -0.3, -0.2], "appears", 2),
        ([0.0, 0.12, 0.06], "appears", 2),
        ([0.0, 0.12, 0.04], "vanishes", 2),
        ([0.2, 0.2, 0.0], "vanishes", 1),
        ([0.0, 0.2, 0.01], "vanishes", 2),
        ([0.2, 0.0, 0.2], "steady", 1),
        ([0.2, 0.1, 0.4], "strengthens", 1),
        ([0.5, 0.2, -0.3], "weakens", 1),
        ([0.15, 0.15, 0.06], "steady", 1),
        ([0.09, 0.09, 0.09], "absent", None),
        ([0.1, 0.1, 0.1], "steady", 1),
    ],
)
def test_courses_and_first_steps(sizes, course, first):
    found = of_heads(sizes, [0.0] * 3)
    assert found.courses() == {"L0H0": course, "L0H1": "absent"}
    assert found.first_steps() == {"L0H0": first, "L0H1": None}


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=6))
def test_courses_turn_around_with_time(sizes):
    there = [abs(size) >= 0.1 for size in sizes]
    found = of_heads(sizes).courses()["L0H0"]
    assert found in COURSES
    assert (found == "absent") == (not any(there))
    if all(there):
        back = of_heads(sizes[::-1]).courses()["L0H0"]
        assert {found, back} in ({"strengthens", "weakens"}, {"steady"})


def test_ranks_are_compared_with_the_last():
    found = of_heads([0.1, 0.3], [0.3, -0.2], [0.2, 0.1])
    # sizes 1, 3, 2 against 3, 2, 1
    assert found.agreement_with_last().tolist() == pytest.approx([-0.5, 1.0])
    assert of_heads([0.0, 0.3], [0.0, 0.2]).agreement_with_last()[0].isnan()
    graph = Graph(n_layers=1, n_heads=3, n_kv_heads=3, d_mlp=0)
    rising = torch.linspace(0, 1, graph.n_edges)
    with_edges = of_heads(
        [0.1, 0.3], [0.3, 0.2], [0.2, 0.1], graph=graph, edges=torch.stack([-rising, rising])
    )
    assert with_edges.agreement_with_last("edges").tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(RecordError, match="unknown score 'edges'"):
        found.agreement_with_last("edges")


def test_frames_and_file(tmp_path):
    found = make_development()
    assert found.names[5] == "L1H1"
    frame = found.to_frame()
    assert len(frame) == 3 * 8
    row = frame.query("step == 400 and head == 'L1H3'").iloc[0]
    assert row.effect == pytest.approx(0.8)
    assert row["role <1>"] == pytest.approx(0.4)
    heads = found.heads_frame()
    assert heads.set_index("head").course["L0H0"] == "weakens"
    assert (heads.first_step[0], heads.first_step[7]) == (100, 200)
    assert str(heads.first_step.dtype) == "Int64"
    assert list(found.steps_frame().columns[:4]) == ["step", "clean", "corrupted", "accuracy"]
    read = HeadDevelopment.load(found.save(tmp_path / "d"))
    assert read.to_frame().equals(frame)
    assert read.steps_frame().equals(found.steps_frame())
    graph = Graph(n_layers=2, n_heads=4, n_kv_heads=4, d_mlp=0)
    edges = make_development(graph=graph, edges=torch.rand(3, graph.n_edges))
    read = HeadDevelopment.load(edges.save(tmp_path / "e"))
    assert read.graph == graph
    assert torch.equal(read.edges, edges.edges)


def test_refusals():
    with pytest.raises(RecordError, match="at least two rising steps"):
        make_development((100,))
    with pytest.raises(RecordError, match="at least two rising steps"):
        make_development((100, 100))
    with pytest.raises(RecordError, match="a threshold of every score"):
        make_development(thresholds={"effect": 0.1})
    with pytest.raises(RecordError, match=r"must be \[checkpoint=3, layer, head\]"):
        make_development(scores={"effect": torch.zeros(2, 2, 4)}, thresholds={"effect": 0.1})
    with pytest.raises(RecordError, match="without their graph"):
        make_development(edges=torch.zeros(3, 5))
    with pytest.raises(RecordError, match="did you mean 'effect'"):
        make_development().courses("efect")
