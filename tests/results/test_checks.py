"""Records that check other results: subspace reports, ablations, agreement; and training histories."""

from __future__ import annotations

import math

import pytest
import torch

from interp.errors import RecordError
from interp.results import (
    AblationCheck,
    Estimate,
    MethodAgreement,
    Provenance,
    SubspaceReport,
    TrainingHistory,
)


def make_report(effects, direction="denoise", clean=3.0, corrupted=-1.0, **changes):
    """A report whose parts move the metric by ``effects`` of the gap, from having done nothing."""
    nothing, gap = (clean if direction == "noise" else corrupted), clean - corrupted
    fields = dict(
        site="mlp_out[8]",
        readout="W_out of layer 8",
        dimensions=1,
        raw=nothing + gap * torch.tensor(effects),
        clean=clean,
        corrupted=corrupted,
        separability=torch.tensor([0.9, 0.6, 0.8, float("nan")]),
        row_space_share=0.3,
        readout_z=2.0,
        provenance=Provenance(model="m", direction=direction),
    )
    return SubspaceReport(**fields | changes)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_effect_undoes_the_normalisation(direction):
    report = make_report([0.7, 0.1, 0.2, -0.4], direction)
    assert report.effect.tolist() == pytest.approx([0.7, 0.1, 0.2, -0.4], abs=1e-6)
    assert report.held_out_effect is None


@pytest.mark.parametrize(
    ("effects", "warns"),
    [
        ([0.7, 0.1, 0.0, 0.1], True),  # the illusion: neither part nor whole does it
        ([0.7, 0.6, 0.0, 0.1], False),  # its row-space part explains it
        ([0.7, 0.1, 0.0, 1.0], False),  # the full activation does more
        ([0.05, 0.0, 0.0, 0.0], False),  # too little to mind
        ([-0.7, -0.1, 0.0, 0.0], True),  # the same downwards
        ([0.7, -0.7, 0.0, 0.0], True),  # an opposite effect explains nothing
        ([0.7, 0.34, 0.0, 0.36], False),
        ([float("nan")] * 4, False),
    ],
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_warning(effects, warns, direction):
    warning = make_report(effects, direction).warning
    assert (warning is not None) == warns
    if warns:
        assert f"{effects[0]:.2f}" in warning


def test_report_file_frame_and_refusals(tmp_path):
    held_out = dict(
        held_out_raw=torch.tensor([1.0, 0.0, 0.5, 1.0]), held_out_clean=2.0, held_out_corrupted=0.0
    )
    report = make_report([0.7, 0.1, 0.2, 0.1], **held_out)
    assert report.held_out_effect.tolist() == [0.5, 0.0, 0.25, 0.5]
    read = SubspaceReport.load(report.save(tmp_path / "r"))
    assert read.to_frame().equals(report.to_frame())
    assert math.isnan(read.separability[3])
    assert list(read.to_frame().part) == ["subspace", "row space", "null space", "full activation"]
    with pytest.raises(RecordError, match="together, or none"):
        make_report([0.7, 0.1, 0.2, 0.1], held_out_clean=1.0)
    with pytest.raises(RecordError, match=r"raw must be \[part=4\]"):
        make_report([0.7, 0.1, 0.2])
    assert make_report([0.7, 0.1, 0.2, 0.1], clean=1.0, corrupted=1.0).effect.isnan().all()


def make_ablation(**changes):
    fields = dict(
        names=("L9H6", "L9H9"),
        clean=4.0,
        corrupted=0.0,
        ablated=1.0,
        random=torch.tensor([3.5, 1.0, 4.5, 0.5]),
        provenance=Provenance(model="m", ablation="mean"),
    )
    return AblationCheck(**fields | changes)


def test_ablation_numbers(tmp_path):
    check = make_ablation(random_names=(("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")))
    assert check.recovered == 0.25
    assert check.random_recovered.tolist() == [0.875, 0.25, 1.125, 0.125]
    assert check.random_as_strong == 0.5  # 1.0 and 0.5 are as far from 4.0 as the chosen set, or farther
    assert math.isnan(make_ablation(clean=0.0).recovered)
    read = AblationCheck.load(check.save(tmp_path / "a"))
    assert read.to_frame().equals(check.to_frame())
    assert read.random_names == check.random_names
    frame = check.to_frame()
    assert frame[frame.run == "ablated"].parts.item() == "L9H6 L9H9"
    assert len(frame) == 7


def test_ablation_refusals():
    with pytest.raises(RecordError, match="at least one ablated part"):
        make_ablation(names=())
    with pytest.raises(RecordError, match="0 random sets"):
        make_ablation(random=torch.zeros(0))
    with pytest.raises(RecordError, match=r"as many parts as the ablated one \(2\)"):
        make_ablation(random_names=(("a",),) * 4)
    with pytest.raises(RecordError, match=r"random must be \[set=1\]"):
        make_ablation(random_names=(("a", "b"),))


def test_agreement(tmp_path):
    perfect = Estimate(1.0, 0.9, 1.0)
    made = MethodAgreement(
        ("L0H0", "L0H1"),
        torch.tensor([0.1, -0.2]),
        torch.tensor([0.2, -0.1]),
        perfect,
        perfect,
        perfect,
        0.95,
        Provenance(model="m", method="attribution"),
        ("top", "random"),
    )
    read = MethodAgreement.load(made.save(tmp_path / "m"))
    assert read.pearson == perfect
    assert str(perfect) == "1.00 [0.90, 1.00]"
    assert read.to_frame().equals(made.to_frame())
    with pytest.raises(RecordError, match="chosen_as has 1 entries for 2 sites"):
        MethodAgreement(
            made.names,
            made.exact,
            made.approximate,
            perfect,
            perfect,
            perfect,
            0.95,
            made.provenance,
            ("top",),
        )
    with pytest.raises(RecordError, match=r"approximate must be \[site=2\]"):
        MethodAgreement(
            made.names, made.exact, torch.zeros(3), perfect, perfect, perfect, 0.95, made.provenance
        )


def test_agreement_summary_and_undefined_estimates(tmp_path):
    undefined = Estimate(*[float("nan")] * 3)
    assert str(undefined) == "undefined"
    assert str(Estimate(-0.001, -0.004, 0.5)) == "0.00 [0.00, 0.50]"
    made = MethodAgreement(
        ("a", "b"),
        torch.tensor([0.1, -0.2]),
        torch.tensor([0.2, -0.1]),
        undefined,
        Estimate(0.5, -0.5, 0.75),
        Estimate(1.0, 1.0, 1.0),
        0.9,
        Provenance(model="m", method="ig"),
        top_overlap=Estimate(0.5, 0.25, 1.0),
        k=20,
        n_sites=168,
    )
    assert made.summary() == (
        "Pearson undefined, Spearman 0.50 [-0.50, 0.75], sign agreement 1.00 [1.00, 1.00], "
        "top-20 overlap 0.50 [0.25, 1.00] (90% bootstrap intervals, 2 sites checked of 168)"
    )
    read = MethodAgreement.load(made.save(tmp_path / "m"))
    assert (read.top_overlap, read.k, read.n_sites) == (made.top_overlap, 20, 168)
    assert read.summary() == made.summary()


def test_history(tmp_path):
    held_out = {"loss": torch.tensor([3.0, float("nan")]), "IOI accuracy": torch.tensor([0.1, 0.9])}
    made = TrainingHistory(torch.tensor([1, 50]), torch.tensor([3.0, 1.0]), Provenance(model="m"), held_out)
    read = TrainingHistory.load(made.save(tmp_path / "h"))
    assert read.to_frame().equals(made.to_frame())
    assert list(read.to_frame()) == ["step", "loss", "held out: loss", "held out: IOI accuracy"]
    with pytest.raises(RecordError, match="rising steps"):
        TrainingHistory(torch.tensor([5, 5]), torch.zeros(2), Provenance(model="m"))
    with pytest.raises(RecordError, match=r"each of 2 steps; got \{'loss': \(3,\)\}"):
        TrainingHistory(torch.tensor([1, 5]), torch.zeros(2), Provenance(model="m"), {"loss": torch.zeros(3)})
