"""Watching generation: the same scores cached, uncached and padded; alarms that flag, raise and stop."""

from __future__ import annotations

import pytest
import torch
from steering_search_world import prompts, tiny

from interp.errors import InterventionError, SteeringError
from interp.steering import Steering, Step
from interp.steering.monitor import AlarmError, Detector, watch
from interp.steering.operations import Add
from interp.types import Site

ROWS = prompts(3, 1, 50, seed=4, shortest=4, longest=7)
NEW = 6


def detector(**fields):
    draw = torch.Generator().manual_seed(0)
    made = dict(
        sites=(Site("resid_post", 0), Site("resid_post", 2)), directions=torch.randn(2, 36, generator=draw)
    )
    return Detector(**made | fields)


def left_padded(rows):
    width = max(map(len, rows))
    tokens, mask = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.bool),
    )
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :], mask[i, width - len(row) :] = row, True
    return tokens, mask


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
def test_scores_are_equal_cached_uncached_padded_and_alone(family, pooling):
    model, one = tiny(family), detector(pooling=pooling)
    tokens, mask = left_padded(ROWS)
    found = {}
    for cached in (True, False):
        with watch(model, one) as watched:
            out = model.generate(tokens, NEW, mask, use_cache=cached, eos_token_id=[])
        found[cached] = watched.scores(), watched.running()
        assert torch.equal(watched.tokens, out[:, :-1])
    torch.testing.assert_close(found[True], found[False], atol=1e-4, rtol=1e-4, equal_nan=True)
    for i, row in enumerate(ROWS):
        whole = out[i, tokens.shape[1] - len(row) : -1]
        scores, _ = one.token_scores(model, whole[None])
        real = slice(tokens.shape[1] - len(row), None)
        torch.testing.assert_close(found[True][0][i, real], scores[0], atol=1e-4, rtol=1e-4)
        assert found[True][0][i, : tokens.shape[1] - len(row)].isnan().all()
        torch.testing.assert_close(found[True][1][i, -1], one.score(model, [whole])[0], atol=1e-4, rtol=1e-4)


def test_generated_tokens_alone():
    model, one = tiny(), detector().at("gen")
    with watch(model, one) as watched:
        out = model.generate(ROWS[0], NEW, eos_token_id=[])
    n = len(ROWS[0])
    chosen = watched.chosen()[0].tolist()
    assert chosen == [False] * n + [True] * (NEW - 1)
    assert watched.running()[0, :n].isnan().all()
    wanted = detector().token_scores(model, out[:, :-1])[0][0, n:].mean()
    torch.testing.assert_close(watched.running()[0, -1], wanted, atol=1e-4, rtol=1e-4)


def plain_forward_running(model, one):
    with watch(model, one) as watched:
        model.generate(ROWS[0], NEW, eos_token_id=[])
    return watched.running()[0]


@pytest.mark.parametrize("cached", [True, False])
def test_alarms_ring_at_the_first_token_above(cached):
    model, one = tiny(), detector(pooling="max")
    running = plain_forward_running(model, one)
    n = len(ROWS[0])
    limit = float((running[n] + running[n - 1]) / 2) if running[n] > running[n - 1] else float(running[-2])
    first = int((running > limit).long().argmax()) if (running > limit).any() else None
    limited = detector(pooling="max", threshold=limit)
    with watch(model, limited) as watched:
        out = model.generate(ROWS[0], NEW, use_cache=cached, eos_token_id=[])
    assert first is None or [(a.row, a.column) for a in watched.alarms] == [(0, first)]
    assert out.shape[1] == n + NEW
    sure = detector(pooling="max", threshold=float(running[0]) - 1)
    with pytest.raises(AlarmError, match="row 0, column 0") as caught, watch(model, sure, "raise"):
        model.generate(ROWS[0], NEW, use_cache=cached)
    assert caught.value.alarms[0].detector == "detector"
    with watch(model, sure, "stop", min_tokens=n + 2) as watched:
        model.generate(ROWS[0], NEW, use_cache=cached, eos_token_id=[])
        raise AssertionError("the block was not left")
    assert watched.stopped and torch.equal(watched.tokens[0], out[0, : n + 2])
    assert watched.alarms[0].column == n + 1
    assert not model.active_edits


def test_rows_end_by_themselves():
    model = tiny()
    tokens, mask = left_padded(ROWS)
    one = detector(pooling="max")
    with watch(model, one) as watched:
        model.generate(tokens, NEW, mask, eos_token_id=[])
    last = watched.running()[:, -1]
    limit = float(last.sort().values[:2].mean())
    with watch(model, detector(pooling="max", threshold=limit)) as watched:
        model.generate(tokens, NEW, mask, eos_token_id=[0], stopping_criteria=[watched.stopping])
    assert {alarm.row for alarm in watched.alarms} == set((last > limit).nonzero()[:, 0].tolist())


def test_a_steering_inside_is_seen_by_what_it_does_later():
    model, one = tiny(), detector(sites=(Site("resid_post", 1),), directions=torch.ones(1, 36))
    push = Steering((Step(Site("resid_post", 1), Add(torch.ones(36))),))
    with torch.no_grad():
        with push.apply(model, strength=2.0), watch(model, one) as watched:
            model(ROWS[0][None])
        with watch(model, one) as plain:
            model(ROWS[0][None])
    torch.testing.assert_close(
        watched.scores() - plain.scores(), torch.full((1, len(ROWS[0])), 12.0).double(), atol=1e-4, rtol=1e-4
    )


def test_a_threshold_on_generated_text():
    model, one = tiny(), detector(pooling="max").at("gen")
    tokens = torch.stack(prompts(24, 1, 50, seed=6, shortest=5, longest=5))
    with watch(model, one) as watched:
        model.generate(tokens[:19], NEW, eos_token_id=[])
    limited = one.with_threshold(watched.running()[:, -1], 0.1)
    with watch(model, limited) as watched:
        model.generate(tokens, NEW, eos_token_id=[])
    # of 19 negatives the 18th limits a rate of 0.1: one of them is above, and it rings
    assert len([alarm for alarm in watched.alarms if alarm.row < 19]) == 1
    over = (watched.running()[:, -1] > limited.limit).nonzero()[:, 0].tolist()
    assert [alarm.row for alarm in watched.alarms] == over


def test_several_detectors_by_name():
    model = tiny()
    with torch.no_grad(), watch(model, [detector(name="a"), detector(name="b", pooling="max")]) as watched:
        model(ROWS[0][None])
    torch.testing.assert_close(watched.scores("a"), watched.scores("b"))
    with pytest.raises(SteeringError, match="say which detector"):
        watched.scores()
    with pytest.raises(SteeringError, match="'c'"):
        watched.running("c")


def test_refusals():
    model = tiny()
    for args, match in [
        (([],), "different names"),
        (([detector(), detector()],), "different names"),
        ((detector(), "ring"), "raise"),
        ((detector(), "stop"), "no threshold"),
        ((detector(model_digest="other"),), "was made for weights"),
    ]:
        with pytest.raises(SteeringError, match=match), watch(model, *args):
            pass
    with pytest.raises(SteeringError, match="at least 1"), watch(model, detector(), min_tokens=0):
        pass
    with pytest.raises(SteeringError, match="beams"), watch(model, detector()):
        model.generate(ROWS[0], NEW, num_beams=2)
    with pytest.raises(InterventionError, match="no forward pass"), watch(model, detector()) as watched:
        pass
    with pytest.raises(SteeringError, match="no forward"):
        watched.scores()
    assert not model.active_edits
