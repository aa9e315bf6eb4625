"""Texts with the strength of a steering at every token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_steering_dose import fake_text

from interp.errors import RecordError
from interp.results import SteeredText


def test_file_and_frame(tmp_path):
    text = fake_text()
    again = SteeredText.load(text.save(tmp_path / "t"))
    assert again.tokens == text.tokens
    assert torch.equal(again.strength.nan_to_num(-9), text.strength.nan_to_num(-9))
    assert torch.equal(again.n_prompt, text.n_prompt)
    assert (again.unit, again.steering) == (text.unit, text.steering)
    frame = text.to_frame()
    assert again.to_frame().equals(frame)
    assert len(frame) == 6 + 9 + 3 + 9 + 8 + 5
    assert frame[frame.row == 0].generated.tolist() == [False] * 6 + [True] * 9
    assert float(frame.strength[5]) == pytest.approx(float(text.strength[0, 5]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "nats"}, "units of 'dose' or 'strength'"),
        ({"steering": ("a",)}, "with a steering a row"),
        ({"n_prompt": torch.tensor([6, 0, 8])}, "row 1 has 12 tokens and a prompt of 0"),
        ({"n_prompt": torch.tensor([6, 3, 14])}, "row 2 has 13 tokens and a prompt of 14"),
        ({"strength": torch.zeros(3, 15)}, "NaN after a row's last token"),
        ({"strength": torch.zeros(3, 4)}, "strengths for 4 positions and rows of up to 15"),
        ({"strength": torch.zeros(2, 15)}, "strength must be"),
    ],
    ids=range(7),
)
def test_fields_that_do_not_agree(changes, message: str):
    with pytest.raises(RecordError, match=message):
        replace(fake_text(), **changes)
