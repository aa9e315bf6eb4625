"""Results of baking: joining, lookups, refusals, files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_steering_baking import make_abstention, make_bake_report

from interp.errors import RecordError
from interp.results import Estimate
from interp.results.baking import BAKE_PAIRS, AbstentionReport, BakeReport


def test_reports_join_in_order(tmp_path):
    one, other = make_bake_report(1, 1), make_bake_report(3, 0)
    both = BakeReport.join([one, other])
    assert both.names == one.names + other.names and both.exact == (True, False, False, False)
    torch.testing.assert_close(both.kl, torch.cat([one.kl, other.kl]))
    assert both.kl_of("spectrum", "hooked to baked") == Estimate(*both.kl[3, 0].tolist())
    frame = both.to_frame().set_index("baking")
    assert frame["largest"]["spectrum"] == pytest.approx(float(other.largest[2]))
    assert frame[f"kl {BAKE_PAIRS[2]} high"].iloc[0] == pytest.approx(float(one.kl[0, 2, 2]))
    assert "logits to 1" in both.summary()
    again = BakeReport.load(both.save(tmp_path / "both.safetensors"))
    assert again.exact == both.exact and torch.equal(again.kl, both.kl)


def test_what_does_not_fit_is_refused():
    found = make_bake_report(2)
    for other in ([], [found, replace(found, text="other")], [found, replace(found, confidence=0.9)]):
        with pytest.raises(RecordError, match="one text and confidence"):
            BakeReport.join(other)
    with pytest.raises(RecordError, match="did you mean 'bias'"):
        found.kl_of("bia", BAKE_PAIRS[0])
    with pytest.raises(RecordError, match="pair"):
        found.kl_of("bias", "hooked")
    with pytest.raises(RecordError, match="exact or not"):
        replace(found, exact=(True,))
    with pytest.raises(RecordError, match="kl must be"):
        replace(found, kl=found.kl[:, :2])


def test_abstention_by_setting_and_group(tmp_path):
    found = make_abstention()
    made_up, known = found.at("CASAL 2")
    i = found.names.index("CASAL 2")
    assert (made_up.value, known.high) == (float(found.made_up[i, 0]), float(found.known[i, 2]))
    best = found.best("CASAL")
    gains = [
        float(found.known[j, 0] - found.made_up[j, 0]) for j, g in enumerate(found.groups) if g == "CASAL"
    ]
    assert found.groups[best] == "CASAL"
    assert float(found.known[best, 0] - found.made_up[best, 0]) == pytest.approx(max(gains))
    assert list(found.to_frame().columns)[:3] == ["setting", "group", "made_up"]
    assert torch.equal(AbstentionReport.load(found.save(tmp_path / "a.safetensors")).known, found.known)
    for wrong in (lambda: found.at("CASAL"), lambda: found.best("x"), lambda: replace(found, groups=())):
        with pytest.raises(RecordError):
            wrong()
