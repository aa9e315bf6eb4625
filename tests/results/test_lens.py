"""Records of the logit lens and of direct logit attribution."""

from __future__ import annotations

import pytest
import torch

from interp.errors import RecordError
from interp.results import LogitAttribution, LogitLens, Provenance

TOKENS = (("<s>", " a", " b"), ("<s>", " c"))


def make_lens(targets=True, **changes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 3, 6, generator=generator)
    probs = logits.softmax(-1)
    top = logits.topk(2)
    ids = torch.tensor([[1, 2, 5], [-1, 3, -1]])
    at = ids.clamp(min=0)[None, :, :, None].expand(2, 2, 3, 1)
    asked = logits.gather(-1, at)
    fields = dict(
        layers=("embed", "resid_post 0"),
        tokens=TOKENS,
        top_ids=top.indices,
        top_logits=top.values,
        top_probs=probs.gather(-1, top.indices),
        vocabulary={0: "<s>", 1: " a", 2: " b", 3: " c", 4: "\n"},
        provenance=Provenance(model="m"),
    )
    if targets:
        fields |= dict(
            target_ids=ids,
            target_logits=asked[..., 0],
            target_probs=probs.gather(-1, at)[..., 0],
            target_ranks=(logits > asked).sum(-1),
        )
    return LogitLens(**fields | changes), logits


def test_top_tokens_and_unknown_ids():
    lens, logits = make_lens()
    best = int(logits[1, 0, 2].argmax())
    text, probability = lens.top_tokens(1, 0, 2)[0]
    assert text == lens.vocabulary.get(best, f"#{best}")
    assert probability == pytest.approx(float(logits[1, 0, 2].softmax(-1)[best]))
    assert lens.text_of(99) == "#99"


def test_frame_leaves_out_padding_and_unasked_targets():
    lens, logits = make_lens()
    frame = lens.to_frame()
    assert len(frame) == 2 * (3 + 2)
    row = frame[(frame.layer == "resid_post 0") & (frame.prompt == 1) & (frame.pos == 1)].iloc[0]
    place = logits[1, 1, 1]
    assert row.token == " c"
    assert row.target == " c"
    assert row.target_rank == int((place > place[3]).sum())
    assert row.target_logit == pytest.approx(float(place[3]))
    assert row.top_probability == pytest.approx(float(place.softmax(-1).max()))
    unasked = frame[(frame.prompt == 1) & (frame.pos == 0)]
    assert unasked.target.isna().all()
    assert "target" not in make_lens(targets=False)[0].to_frame()


def test_positions_that_were_kept():
    lens, _ = make_lens(positions=torch.tensor([[0, 4, 9], [2, 3, -1]]))
    assert lens.positions_of(0) == [0, 4, 9]
    assert lens.positions_of(1) == [2, 3]
    assert sorted(set(lens.to_frame().pos)) == [0, 2, 3, 4, 9]


def test_lens_round_trip(tmp_path):
    lens, _ = make_lens()
    read = LogitLens.load(lens.save(tmp_path / "lens"))
    assert (read.layers, read.tokens, read.vocabulary) == (lens.layers, lens.tokens, lens.vocabulary)
    assert torch.equal(read.target_ranks, lens.target_ranks)
    assert read.to_frame().equals(lens.to_frame())


def test_lens_refuses_what_does_not_agree():
    with pytest.raises(RecordError, match=r"top_logits must be \[layer=2, batch=2, pos=3, k=2\]"):
        make_lens(top_logits=torch.zeros(2, 2, 3, 3))
    with pytest.raises(RecordError, match="together, or none"):
        make_lens(target_logits=None)
    with pytest.raises(RecordError, match="an entry for every token"):
        make_lens(tokens=(TOKENS[0] + (" more",), TOKENS[1]))
    with pytest.raises(RecordError, match="layer=3"):
        make_lens(layers=("a", "b", "c"))


def make_attribution(**changes):
    generator = torch.Generator().manual_seed(1)
    by_component = torch.randn(4, 3, generator=generator)
    fields = dict(
        components=("embed", "attn 0", "mlp 0", "bias"),
        by_component=by_component,
        actual=by_component.sum(0) + 0.25,
        provenance=Provenance(model="m"),
        by_head=torch.randn(2, 5, 3, generator=generator),
        head_layers=(3, 7),
        neurons=("L0 n4", "L0 n1"),
        by_neuron=torch.randn(2, 3, generator=generator),
    )
    return LogitAttribution(**fields | changes)


def test_total_and_what_is_left():
    made = make_attribution()
    naive = [sum(float(made.by_component[c, p]) for c in range(4)) for p in range(3)]
    assert made.total.tolist() == pytest.approx(naive, abs=1e-6)
    assert made.unexplained.tolist() == pytest.approx([0.25] * 3, abs=1e-6)


def test_running_total_is_measured_or_summed():
    made = make_attribution()
    points, values = made.running_total()
    assert points == made.components
    assert torch.allclose(values[2], made.by_component[:3].sum(0))
    measured = make_attribution(points=("embed", "resid_post 0"), accumulated=torch.ones(2, 3))
    assert measured.running_total() == (("embed", "resid_post 0"), measured.accumulated)


def test_attribution_frame_names_the_model_s_layers():
    made = make_attribution()
    frame = made.to_frame().set_index("name")
    assert len(frame) == 4 + 10 + 2
    assert frame.loc["L7H2", "mean"] == pytest.approx(float(made.by_head[1, 2].mean()))
    assert frame.loc["L7H2", "kind"] == "head"
    assert frame.loc["L0 n1", "std"] == pytest.approx(float(made.by_neuron[1].std(correction=0)))


def test_attribution_round_trip_and_refusals(tmp_path):
    made = make_attribution()
    read = LogitAttribution.load(made.save(tmp_path / "dla"))
    assert read.to_frame().equals(made.to_frame())
    assert read.accumulated is None
    with pytest.raises(RecordError, match=r"by_neuron must be \[neuron=1"):
        make_attribution(neurons=("L0 n4",))
    with pytest.raises(RecordError, match="names points but has no values"):
        make_attribution(points=("embed",))
    with pytest.raises(RecordError, match=r"by_head must be \[layer=1"):
        make_attribution(head_layers=(0,))
    with pytest.raises(RecordError, match="at least one component"):
        make_attribution(components=(), by_component=torch.zeros(0, 3))
