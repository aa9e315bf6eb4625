"""Records of directions, planted recoveries, value vectors and relation neurons: access, checks, files."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from fake_steering_directions import (
    METHODS,
    make_directions,
    make_planted,
    make_relations,
    make_values,
)

from interp.errors import RecordError
from interp.results import PlantedRecovery, RelationNeurons, SteeringDirections, ValueVectors

RECORDS = {
    "directions": make_directions(sites=("resid_post[1]", "mlp_post[1]")),
    "planted": make_planted(),
    "values": make_values(against=(" bad",)),
    "relations": make_relations(),
}


@pytest.mark.parametrize("name", RECORDS)
def test_files_hold_all_of_it(name, tmp_path):
    record = RECORDS[name]
    again = type(record).load(record.save(tmp_path / "record.safetensors"))
    for field in dataclasses.fields(record):
        before, after = getattr(record, field.name), getattr(again, field.name)
        if field.name == "directions":
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        elif isinstance(before, torch.Tensor):
            torch.testing.assert_close(after, before, equal_nan=True)
        else:
            assert after == before, field.name


@pytest.mark.parametrize("name", RECORDS)
def test_they_say_what_they_are_in_one_line(name):
    text = repr(RECORDS[name])
    assert text.startswith(type(RECORDS[name]).__name__ + "(")
    assert "mix<4>l & co" in text
    assert "\n" not in text


def test_directions_by_method_and_site():
    found = make_directions(("pca", "lda"), ("resid_post[1]", "mlp_post[1]"))
    assert found.names == ("pca resid_post[1]", "lda resid_post[1]", "pca mlp_post[1]", "lda mlp_post[1]")
    assert make_directions(("pca", "lda")).names == ("pca", "lda")
    assert found.direction("lda", "mlp_post[1]") is found.directions[3]
    assert found.row("lda", "resid_post[1]") == 1
    assert found.auc_of("pca", "mlp_post[1]").value == float(found.auc[2, 0])
    assert found.stability_of("pca", "mlp_post[1]").high == float(found.stability[2, 2])
    assert found.cosine("pca", "lda", "mlp_post[1]") == float(found.cosines[2, 3])
    assert math.isnan(float(found.cosines[0, 2]))
    assert make_directions(("pca",)).row("pca") == 0
    with pytest.raises(RecordError, match=r"at resid_post\[1\], mlp_post\[1\]; say one of them, got None"):
        found.row("pca")
    with pytest.raises(RecordError, match="did you mean 'lda'"):
        found.row("ldaa")


def test_directions_as_a_table():
    found = make_directions(("pca", "lda"), ("resid_post[1]", "mlp_post[1]"))
    table = found.to_frame()
    assert table["norm"].tolist() == pytest.approx([float(d.norm()) for d in found.directions])
    np.testing.assert_allclose(table[["auc", "auc_low", "auc_high"]], found.auc)
    np.testing.assert_allclose(table[[f"cos {name}" for name in found.names]], found.cosines)


def test_directions_that_do_not_agree():
    good = make_directions(("pca", "lda"))
    for changes, message in (
        (dict(directions=good.directions[:1]), "got 2, 2 and 1"),
        (dict(sites=("resid_post[1]",)), "got 2, 1 and 2"),
        (dict(methods=("pca", "pca")), "some row is there twice"),
        (dict(auc=good.auc[:1]), "auc must be"),
        (dict(cosines=good.cosines[:, :1]), "cosines must be"),
    ):
        with pytest.raises(RecordError, match=message):
            dataclasses.replace(good, **changes)


def test_intervals_of_planted_recoveries_are_those_of_the_mean():
    from scipy.stats import t as student

    found = make_planted()
    values = found.cosines[1, 2].double().numpy()
    half = student.ppf(0.975, 4) * values.std(ddof=1) / 5**0.5
    estimate = found.at("pca", 4.0)
    assert (estimate.value, estimate.low) == pytest.approx((values.mean(), values.mean() - half), abs=1e-5)
    assert estimate.high == pytest.approx(min(values.mean() + half, 1), abs=1e-5)
    one = make_planted(("pca",), (4.0,), 1).at("pca", 4.0)
    assert math.isnan(one.low) and not math.isnan(one.value)
    table = found.to_frame()
    row = table[(table.method == "pca") & (table.strength == 4.0)].iloc[0]
    assert (row.cosine, row.lowest, row.highest) == pytest.approx(
        (values.mean(), values.min(), values.max()), abs=1e-6
    )
    with pytest.raises(RecordError, match="unknown extraction method 'x'"):
        found.at("x", 4.0)
    with pytest.raises(RecordError, match="strengths are"):
        found.at("pca", 3.0)
    with pytest.raises(RecordError, match="got none of some"):
        PlantedRecovery(METHODS, torch.tensor([1.0]), torch.zeros(6, 1, 0), "x", 0.95, found.provenance)


def test_value_vectors_by_layer():
    found = make_values(8)
    assert found.names[:2] == (f"L0N{int(found.neuron[0])}", f"L1N{int(found.neuron[1])}")
    assert found.in_layer(1).tolist() == sorted(found.neuron[[1, 5]].tolist())
    table = found.to_frame()
    assert table.name.tolist() == list(found.names)
    assert table.tokens[0].startswith("·good ·<b> $x$ ↵")
    with pytest.raises(RecordError, match="got 8 and 7"):
        make_values(8, tokens=found.tokens[:7])
    with pytest.raises(RecordError, match="score must be"):
        make_values(8, score=torch.zeros(3))


def test_relations_within_and_across():
    found = make_relations()
    for i in range(3):
        lost = found.base - found.accuracy[i]
        own = [float(lost[a, a]) for a in range(4)]
        others = [float(lost[a, b]) for a in range(4) for b in range(4) if a != b]
        random = [float(found.base[a] - found.random[i, a, a, 0]) for a in range(4)]
        assert float(found.within[i]) == pytest.approx(np.mean(own), abs=1e-6)
        assert float(found.across[i]) == pytest.approx(np.mean(others), abs=1e-6)
        assert float(found.random_within[i]) == pytest.approx(np.mean(random), abs=1e-6)
    assert found.at("speaks", "capital of", 16) == float(found.accuracy[1, 3, 0])
    assert found.random_at("speaks", "capital of", 16).low == float(found.random[1, 3, 0, 1])
    table = found.to_frame()
    row = table[(table.k == 16) & (table.zeroed == "speaks") & (table.judged == "capital of")].iloc[0]
    assert row.accuracy == pytest.approx(found.at("speaks", "capital of", 16))
    with pytest.raises(RecordError, match="unknown relation 'speak'"):
        found.at("speak", "speaks", 16)
    with pytest.raises(RecordError, match="4, 16, 64 neurons were zeroed; got k=5"):
        found.at("speaks", "speaks", 5)
    with pytest.raises(RecordError, match="at least two"):
        make_relations(("a",))
    with pytest.raises(RecordError, match="numbers of neurons rise"):
        dataclasses.replace(found, ks=(16, 4, 64))


def test_they_are_exported():
    assert {type(record) for record in RECORDS.values()} == {
        SteeringDirections, PlantedRecovery, ValueVectors, RelationNeurons,
    }  # fmt: skip
