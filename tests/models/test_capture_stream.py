"""Capture of texts, and of data sets a batch at a time."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch
from model_zoo import Specimen, make_bare
from naive_interventions import random_prompts
from torch import Tensor
from word_tokenizer import make_tokenizer

import interp
from interp.errors import ModelError, SiteError, TokenizationError


@pytest.fixture(scope="module")
def texting() -> Any:
    """A model with a word-level tokenizer of its vocabulary."""
    return interp.load_model(make_bare("llama"), tokenizer=make_tokenizer())


class TestText:
    def test_a_text_is_its_tokens(self, texting: Any):
        by_text = interp.capture(texting, "w3 w7 w9", "z")
        assert by_text.tokens.tolist() == [[3, 7, 9]]
        by_tokens = interp.capture(texting, torch.tensor([3, 7, 9]), "z")
        assert torch.equal(by_text["z"], by_tokens["z"])

    def test_texts_of_unequal_length_are_padded(self, texting: Any):
        cache = interp.capture(texting, ["w3 w7 w9", "w4"], "resid_post[1]@-1")
        alone = interp.capture(texting, "w4", "resid_post[1]@-1")
        torch.testing.assert_close(cache["resid_post[1]@-1"][1:], alone["resid_post[1]@-1"])
        assert cache.attention_mask.tolist() == [[True, True, True], [True, False, False]]

    def test_a_model_without_a_tokenizer_says_so(self, gpt2: Specimen):
        with pytest.raises(TokenizationError, match="has no tokenizer; give token tensors"):
            interp.capture(gpt2.model, "w3", "z")

    def test_an_empty_text(self, texting: Any):
        with pytest.raises(ModelError, match="at least one token"):
            texting("")
        with pytest.raises(ModelError, match="row 1 of attention_mask has no real token"):
            texting(["w3 w4", ""])
        with pytest.raises(ModelError, match="empty list of texts"):
            texting([])


ROWS = [[3, 7, 9], [4], [5, 6, 8, 2, 11], [12, 13], [14, 15, 16, 17]]


def _ragged(kind: str) -> Any:
    words = [" ".join(f"w{token}" for token in row) for row in ROWS]
    width = max(map(len, ROWS))
    return {
        "lists": lambda: ROWS,
        "tensors": lambda: [torch.tensor(row) for row in ROWS],
        "generator": lambda: (torch.tensor(row) for row in ROWS),
        "texts": lambda: words,
        "dataset of tokens": lambda: datasets.Dataset.from_dict({"tokens": ROWS, "other": words}),
        "dataset of ids": lambda: datasets.Dataset.from_dict({"input_ids": ROWS}),
        "dataset of text": lambda: datasets.Dataset.from_dict({"text": words}),
        "padded dataset": lambda: datasets.Dataset.from_dict(
            {
                "input_ids": [row + [0] * (width - len(row)) for row in ROWS],
                "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in ROWS],
            }
        ),
    }[kind]()


class TestStream:
    @pytest.mark.parametrize(
        "kind",
        [
            "lists",
            "tensors",
            "generator",
            "texts",
            "dataset of tokens",
            "dataset of ids",
            "dataset of text",
            "padded dataset",
        ],
    )
    def test_ragged_data_of_every_form(self, texting: Any, kind: str):
        """Whatever it comes as, each row is captured as it is alone."""
        batches = list(
            interp.capture_stream(
                texting, _ragged(kind), ["z", "resid_post[1]"], batch_size=2, progress=False
            )
        )
        assert [len(cache.tokens) for cache in batches] == [2, 2, 1]
        rows = []
        for cache in batches:
            for row in range(len(cache.tokens)):
                real = cache.columns.real[row]
                rows.append((cache.tokens[row][real], cache["z"][:, row][:, real], cache))
        for expected, (tokens, z, _) in zip(ROWS, rows, strict=True):
            assert tokens.tolist() == expected
            alone = interp.capture(texting, torch.tensor([expected]), "z")["z"][:, 0]
            torch.testing.assert_close(z, alone.detach(), atol=1e-5, rtol=1e-5)

    def test_a_tensor_is_cut_into_batches(self, kind: Specimen):
        tokens = random_prompts(1, 7, 6, "none").tokens
        found = list(interp.capture_stream(kind.model, tokens, "resid_post", batch_size=3, progress=False))
        whole = interp.capture(kind.model, tokens, "resid_post")["resid_post"].detach()
        joined = torch.cat([cache["resid_post"] for cache in found], dim=1)
        assert [len(cache.tokens) for cache in found] == [3, 3, 1]
        torch.testing.assert_close(joined, whole, atol=1e-5, rtol=1e-5)

    def test_batches_as_given(self, gpt2: Specimen):
        given = [random_prompts(seed, 2, 5 + seed, side) for seed, side in ((1, "none"), (2, "left"))]
        batches = [given[0].tokens, (given[1].tokens, given[1].mask)]
        found = list(interp.capture_stream(gpt2.model, batches, "z", progress=False))
        assert torch.equal(found[1].attention_mask, given[1].mask)
        for prompts, cache in zip(given, found, strict=True):
            expected = interp.capture(gpt2.model, prompts.tokens, "z", attention_mask=prompts.mask)
            assert torch.equal(cache["z"], expected["z"])

    def test_gradients_stay_on_for_the_caller(self, gpt2: Specimen, tokens: Tensor):
        """A coder trains on the batches: its own forward must be recorded."""
        for cache in interp.capture_stream(gpt2.model, tokens, "z", batch_size=1, progress=False):
            assert torch.is_grad_enabled()
            assert not cache["z"].requires_grad

    def test_the_model_is_free_between_batches(self, gpt2: Specimen, tokens: Tensor):
        """Other work on the model while a stream is open, and a stream that is given up."""
        stream = interp.capture_stream(gpt2.model, tokens, "z", batch_size=1, progress=False)
        next(stream)
        assert not gpt2.model.active_edits
        with interp.intervene(gpt2.model, interp.zero("z[0]")):
            assert next(stream)["z[0]"].abs().max() == 0
        stream.close()

    def test_data_that_cannot_be_read(self, gpt2: Specimen, tokens: Tensor):
        data = datasets.Dataset.from_dict({"words": [[1, 2]]})
        with pytest.raises(
            ModelError, match=r"columns \['words'\]; expected 'tokens', 'input_ids' or 'text'"
        ):
            next(interp.capture_stream(gpt2.model, data, "z", progress=False))
        with pytest.raises(ModelError, match=r"must be \[n, pos\]; got shape \(9,\)"):
            next(interp.capture_stream(gpt2.model, tokens[0], "z", progress=False))
        with pytest.raises(SiteError, match="unknown component"):
            next(interp.capture_stream(gpt2.model, tokens, "zz", progress=False))

    def test_a_column_by_name(self, texting: Any):
        data = datasets.Dataset.from_dict({"prompt": ["w3 w4", "w5"]})
        (cache,) = interp.capture_stream(texting, data, "z", text_column="prompt", progress=False)
        assert cache.tokens[0].tolist() == [3, 4]
