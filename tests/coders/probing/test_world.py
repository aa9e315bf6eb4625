"""Labels of generated text: which tokens have them, and the activations that belong to each."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_hf_model

import interp
from interp.coders.probing import attribute_data
from interp.coders.probing.world import _Expressed
from interp.errors import CoderError
from interp.tasks.attributes import ATTRIBUTE_WORDS, ATTRIBUTES
from interp.tasks.world import generate_documents, label_tokens, vocabulary

SITE = "resid_post[1]"


@pytest.fixture(scope="module")
def model():
    return interp.load_model("mix-4l")


def test_activations_belong_to_their_tokens(model):
    data = attribute_data(model, SITE, n=500, seed=3)
    assert len(data) == 500
    assert data.activations.shape == (500, model.traits.d_model)
    documents = list(generate_documents(64, 3, kinds={"attributes": 0.7, "pronouns": 0.1, "agreement": 0.2}))
    labelled = label_tokens([_Expressed(one.kind, one.sentences) for one in documents], 64)
    rows = int(data.prompt.max()) + 1
    cache = interp.capture(model, labelled.tokens[:rows], SITE)[SITE]
    has = torch.stack(list(labelled.attributes.values())).ne(-1).any(0)[:rows]
    torch.testing.assert_close(data.activations, cache[has][:500], atol=1e-4, rtol=1e-4)
    for name, label in labelled.attributes.items():
        assert torch.equal(data.labels[name], label[:rows][has][:500])


def test_labels_begin_with_the_word_that_expresses_them():
    for document in generate_documents(60, 1, kinds=("attributes", "pronouns", "agreement", "induction")):
        plain, late = document, _Expressed(document.kind, document.sentences)
        for name in ATTRIBUTES:
            start = 0
            for sentence in document.sentences:
                n = len(sentence.words)
                whole = plain.values_of(name)[start : start + n]
                cut = late.values_of(name)[start : start + n]
                value = sentence.attributes.get(name)
                known = [
                    i for i, w in enumerate(sentence.words) if value and w in ATTRIBUTE_WORDS[name][value]
                ]
                first = known[0] if known else n
                assert cut == (None,) * first + whole[first:]
                start += n


def test_whole_sentences_and_other_seeds(model):
    whole = attribute_data(model, SITE, n=300, expressed=False)
    late = attribute_data(model, SITE, n=300)
    assert int((whole.labels["tense"] >= 0).sum()) > int((late.labels["tense"] >= 0).sum())
    assert not torch.equal(attribute_data(model, SITE, n=300, seed=1).activations, late.activations)
    again = attribute_data(model, SITE, n=300)
    assert torch.equal(again.activations, late.activations)
    assert late.provenance.model == "mix-4l"
    assert "resid_post[1]" in late.provenance.task


def test_topic_is_told_from_activations(model):
    """What the labels say is in the model: a dense probe finds it on other text."""
    from fake_attributes import LinearDictionary

    from interp.coders.probing import probe_latents

    data = attribute_data(model, "resid_post[3]", n=2500)
    eye = torch.eye(data.activations.shape[1])
    found = probe_latents(
        LinearDictionary(eye, eye), data, ks=(1,), targets=("topic=food", "formality=formal")
    )
    assert (found.dense[:, 0, 1] > found.constant[:, 0]).all()


def test_refusals(model):
    other = interp.load_model(make_hf_model("gpt2"))
    with pytest.raises(CoderError, match=f"generated world's {len(vocabulary())} words"):
        attribute_data(other, SITE)
    with pytest.raises(CoderError, match="not one vector a token"):
        attribute_data(model, "z[1]", n=50)
    with pytest.raises(CoderError, match="n=0"):
        attribute_data(model, SITE, n=0)
