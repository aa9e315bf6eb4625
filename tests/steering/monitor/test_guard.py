"""A guard on planted prompts: content at the end of the instruction, behaviour after it.

Prompts are [random tokens, content token, template token, behaviour token]. Both directions are fitted on prompts
in which the two go together, as harmful prompts that are refused and harmless ones that are followed. Where
they are read is all that tells them apart.
"""

from __future__ import annotations

import pytest
import torch
from steering_search_world import planted_model

import interp
from interp.errors import SteeringError
from interp.results import GuardReport
from interp.results.detector import GUARD_CELLS
from interp.steering.monitor import Detector, Guard, fit_detector, fit_guard, load_guard
from interp.steering.monitor.threshold import measure_auc
from interp.steering.places import InstructionEnd
from interp.types import Site

CONTENT, BEHAVIOUR, TEMPLATE = {True: (30, 34), False: (34, 38)}, {True: (40, 44), False: (44, 48)}, 50


def planted(content, behaviour, n, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        length = int(torch.randint(2, 6, (1,), generator=draw))
        filler = torch.randint(1, 30, (length,), generator=draw)
        ends = [torch.randint(*CONTENT[content], (1,), generator=draw), torch.tensor([TEMPLATE])]
        rows.append(torch.cat([filler, *ends, torch.randint(*BEHAVIOUR[behaviour], (1,), generator=draw)]))
    return rows


def cells(n, seed):
    pairs = ((False, False), (False, True), (True, False), (True, True))
    return {
        name: planted(*pair, n, seed + i)
        for i, (name, pair) in enumerate(zip(GUARD_CELLS, pairs, strict=True))
    }


@pytest.fixture(scope="module")
def fitted():
    model = planted_model((CONTENT, BEHAVIOUR), 4.0)
    train = planted(True, True, 80, 1), planted(False, False, 80, 2)
    guard = fit_guard(
        model, train, train, content_site="resid_post", content_where=InstructionEnd((TEMPLATE,)),
        behaviour_site="resid_post@-1", false_positive_rate=0.1,
    )  # fmt: skip
    return model, train, guard


def test_it_tells_content_from_behaviour_where_one_direction_cannot(fitted):
    model, train, guard = fitted
    test = cells(40, 10)
    report = guard.evaluate(model, test)
    assert report.accuracy > 0.8
    assert report.table.sum(1).tolist() == [40, 40, 40, 40]
    single = fit_detector(model, *train, "resid_post@-1", measure="prototypes")
    scores = {name: single.score(model, rows) for name, rows in test.items()}
    # it follows the behaviour: content that is not refused looks safer than a refusal of something harmless
    missed = measure_auc(scores["content only"], scores["behaviour only"]).value
    reading = {name: guard.read(model, rows) for name, rows in test.items()}
    apart = measure_auc(reading["content only"].content, reading["behaviour only"].content).value
    assert missed < 0.1
    assert apart > 0.95


def test_content_is_read_before_the_behaviour_is_there(fitted):
    model, _, guard = fitted
    rows = planted(True, False, 10, 5)
    other = [torch.cat([row[:-1], torch.tensor([41])]) for row in rows]
    torch.testing.assert_close(
        guard.read(model, rows).content, guard.read(model, other).content, atol=1e-5, rtol=1e-5
    )


def test_it_is_fitted_where_it_reads(fitted):
    model, train, guard = fitted
    # the content token is the third from the end of every prompt
    again = fit_detector(model, *train, "resid_post@-3", measure="prototypes", false_positive_rate=0.1)
    torch.testing.assert_close(again.directions, guard.content.directions)
    torch.testing.assert_close(again.against, guard.content.against)
    assert again.limit == pytest.approx(guard.content.limit)


def test_decisions_are_those_of_both_thresholds(fitted):
    model, _, guard = fitted
    reading = guard.read(model, planted(True, True, 30, 6) + planted(False, False, 30, 7), batch_size=7)
    for c, b, cell, name in zip(
        reading.content, reading.behaviour, reading.decided.tolist(), reading.names, strict=True
    ):
        wanted = 2 * int(c > guard.content.limit) + int(b > guard.behaviour.limit)
        assert cell == wanted and name == GUARD_CELLS[wanted]


def test_scores_are_the_difference_of_cosines(fitted):
    model, train, guard = fitted
    row = train[0][0]
    cache = interp.capture(model, row[None], "resid_post")
    total = 0.0
    for layer in range(3):
        h = cache["resid_post"][layer, 0, -3].detach()
        mu = guard.content.directions[layer], guard.content.against[layer]
        cosine = [float(torch.nn.functional.cosine_similarity(h, m, dim=0)) for m in mu]
        total += cosine[0] - cosine[1]
    assert float(guard.read(model, [row]).content) == pytest.approx(total / 3, abs=1e-5)


def test_files_and_reports(fitted, tmp_path):
    model, _, guard = fitted
    rows = planted(True, False, 5, 8)
    again = load_guard(guard.save(tmp_path / "guard.safetensors"))
    torch.testing.assert_close(again.read(model, rows).content, guard.read(model, rows).content)
    assert again.content.where == guard.content.where and again.behaviour.limit == guard.behaviour.limit
    report = guard.evaluate(model, {"content only": rows, "neither": planted(False, False, 5, 9)})
    loaded = GuardReport.load(report.save(tmp_path / "report.safetensors"))
    assert str(loaded) == str(report) and torch.equal(loaded.table, report.table)
    assert report.to_frame().loc["content only"].sum() == 5


def test_refusals(fitted):
    model, train, guard = fitted
    bare = Detector((Site("resid_post", 0),), torch.ones(1, 36))
    with pytest.raises(SteeringError, match="has none: calibrate"):
        Guard(bare, guard.behaviour)
    with pytest.raises(SteeringError, match="content only"):
        guard.evaluate(model, {"contents only": train[0]})
    with pytest.raises(SteeringError, match="does not stand behind an instruction"):
        guard.read(model, [torch.tensor([1, 2, 3, 4])])
