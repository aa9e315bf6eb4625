"""Reading prompts: items from any number on, batches in their order, and captures without logits."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch
from model_zoo import Specimen, specimen

import interp
from interp.models.text_data import encode_item, open_items, pad_prompts, read_batches

ROWS = [[3, 7, 9], [4], [5, 6, 8], [12, 13]]
DATA: dict[str, Any] = {
    "list": ROWS,
    "rows": [{"tokens": row} for row in ROWS],
    "dataset": datasets.Dataset.from_dict({"tokens": ROWS}),
    "streamed": datasets.Dataset.from_dict({"tokens": ROWS}).to_iterable_dataset(),
    "factory": lambda: iter(ROWS),
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("start", range(5))
def test_items_from_a_number_on(kind: str, start: int):
    found = [torch.as_tensor(item).tolist() for item in open_items(DATA[kind], start=start)]
    assert found == ROWS[start:]


def test_batches_of_a_mixture_keep_their_order():
    """A batch that is given whole ends the one that is being gathered."""
    model = specimen("gpt2").model
    whole = torch.tensor([[1, 2], [3, 4]])
    masked = (whole, torch.tensor([[True, True], [False, True]]))
    found = list(read_batches(model, [[9], whole, [8, 7], [6], [5], masked], 2))
    expected = [[[9]], [[1, 2], [3, 4]], [[8, 7], [6, 0]], [[5]], [[1, 2], [3, 4]]]
    assert [tokens.tolist() for tokens, _ in found] == expected
    masks = [None if mask is None else mask.tolist() for _, mask in found]
    assert masks == [None, None, [[True, True], [True, False]], None, masked[1].tolist()]


def test_padding_is_taken_off_and_put_on():
    masked = (torch.tensor([[0, 5, 6], [7, 0, 0]]), torch.tensor([[False, True, True], [True, False, False]]))
    rows = encode_item(specimen("gpt2").model, masked)
    assert [row.tolist() for row in rows] == [[5, 6], [7]]
    tokens, mask = pad_prompts(rows)
    assert tokens.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[True, True], [True, False]]


def test_a_capture_without_logits(kind: Specimen):
    tokens = torch.tensor([[3, 7, 9, 4], [4, 11, 2, 8]])
    with torch.no_grad():
        lean = interp.capture(kind.model, tokens, ["z", "resid_post"], unembed=False)
        whole = interp.capture(kind.model, tokens, ["z", "resid_post"])
    assert lean.logits is None
    assert torch.equal(lean["z"], whole["z"])
    assert torch.equal(lean["resid_post"], whole["resid_post"])


def test_gradients_read_all_logits_all_the_same(gpt2: Specimen):
    tokens = torch.tensor([[3, 7, 9, 4]])
    found = [
        interp.capture(gpt2.model, tokens, "z", gradients_of=lambda logits: logits[0, 1, 5], unembed=unembed)
        for unembed in (True, False)
    ]
    assert torch.equal(found[0].grads["z"], found[1].grads["z"])
    assert found[0].grads["z"].abs().max() > 0
    assert found[1].logits is None
