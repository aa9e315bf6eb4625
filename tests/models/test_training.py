"""Training the bundled models: reproducible, interruptible, and what their cards say is so."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interp.bundled_data import data_path
from interp.errors import DataFileError, ModelError
from interp.models.bundled import train
from interp.models.bundled.cards import CARD_FILE, read_card, tolerance_of
from interp.models.bundled.consistency import measure_consistency
from interp.models.bundled.corpus import stream_batches
from interp.models.bundled.evaluate import (
    capture_patterns,
    evaluate_heldout,
    measure_induction,
    predict_answers,
)
from interp.models.bundled.recipes import RECIPES, find_recipe
from interp.models.bundled.tokenizer import build_world_tokenizer
from interp.tasks.attributes import ATTRIBUTE_WORDS
from interp.tasks.sentences import STEERABLE
from interp.tasks.world import BOS, generate_documents, pack_tokens, token_ids

TRAINED = sorted(name for name, recipe in RECIPES.items() if recipe.source == "world")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Recipes with tiny batches and an early checkpoint, for the tests that train."""
    small = {name: replace(recipe, batch=3, checkpoints=(2,)) for name, recipe in RECIPES.items()}
    monkeypatch.setattr(train, "find_recipe", small.__getitem__)


def fresh_model(name: str, seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return find_recipe(name).build(128).eval()


@pytest.mark.parametrize("name", TRAINED)
def test_same_seed_trains_the_same_model_and_leaves_the_global_seed_alone(name: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    cards = {
        label: train.train_bundled(name, tmp_path / label, seed, steps=3, heldout_n=24, progress=False)
        for label, seed in (("a", 5), ("b", 5), ("c", 6))
    }
    assert torch.equal(state, torch.get_rng_state())
    weights = {label: load_file(tmp_path / label / "model.safetensors") for label in cards}
    assert all(torch.equal(weights["a"][key], weights["b"][key]) for key in weights["a"])
    assert not all(torch.equal(weights["a"][key], weights["c"][key]) for key in weights["a"])
    assert cards["a"].heldout == cards["b"].heldout != cards["c"].heldout
    assert read_card(tmp_path / "a") == cards["a"]
    assert [step for step, *_ in cards["a"].curve] == [2, 3]


def test_the_number_of_threads_changes_nothing_and_is_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            train.train_bundled("mix-4l", tmp_path / str(threads), steps=2, heldout_n=24, progress=False)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    one, two = (load_file(tmp_path / str(threads) / "model.safetensors") for threads in (1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_training_lowers_the_loss_and_moves_every_parameter(tmp_path: Path) -> None:
    card = train.train_bundled("induction-2l", tmp_path, steps=30, heldout_n=24, progress=False)
    first, last = card.curve[0][1], card.curve[-1][1]
    assert last < first - 0.3
    before = dict(fresh_model("induction-2l").state_dict())
    after = load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    # a key bias cancels in the softmax: its gradient is rounding error
    still = [key for key in before if torch.allclose(before[key], after[key]) and not key.endswith("b_K")]
    assert not still
    assert card.parameters == sum(tensor.numel() for tensor in after.values())


def test_checkpoints_hold_the_weights_in_half_precision(tmp_path: Path) -> None:
    train.train_bundled("induction-2l", tmp_path, steps=2, heldout_n=24, progress=False)
    final = load_file(tmp_path / "model.safetensors")
    halves = load_file(tmp_path / "checkpoints" / "step-00002.safetensors")
    assert all(torch.equal(halves[key], final[key].half()) for key in final)


def test_an_interrupted_run_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / CARD_FILE).write_text("old")

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "write_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train.train_bundled("induction-2l", out, steps=1, heldout_n=24, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in out.iterdir()] == [CARD_FILE]
    assert (out / CARD_FILE).read_text() == "old"


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'mix-4l'"):
        find_recipe("mix-4")
    with pytest.raises(ModelError, match="steps=0"):
        train.train_bundled("mix-4l", tmp_path, steps=0)
    with pytest.raises(DataFileError, match="no model card"):
        read_card(tmp_path)
    (tmp_path / CARD_FILE).write_text('{"name": "x"}')
    with pytest.raises(DataFileError, match="not a model card"):
        read_card(tmp_path)


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    recipe = replace(find_recipe("mix-4l"), steps=400, warmup=50, final_rate=0.1)
    rates = [train._rate(step, recipe) for step in range(401)]
    top = max(range(401), key=rates.__getitem__)
    assert 45 <= top <= 50
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    assert rates[-1] == pytest.approx(0.1)


def test_batches_are_the_packed_text_at_positions_inside_the_context() -> None:
    recipe = replace(find_recipe("mix-4l"), batch=5, opening_steps=0)
    stream, again = stream_batches(recipe, 9), stream_batches(recipe, 9)
    batches = [next(stream) for _ in range(40)]
    rows = pack_tokens(generate_documents(10_000, 9, kinds=recipe.mix), recipe.length)
    offsets = set()
    for batch in batches:
        assert batch.tokens.tolist() == [next(rows) for _ in range(5)]
        assert (batch.position_ids.diff(dim=1) == 1).all()
        offsets.update(batch.position_ids[:, 0].tolist())
    assert min(offsets) >= 0 and max(offsets) + recipe.length <= recipe.n_ctx
    assert len(offsets) > (recipe.n_ctx - recipe.length) / 2
    assert torch.equal(next(again).position_ids, batches[0].position_ids)


def test_the_opening_is_its_own_text_and_then_the_main_text_begins() -> None:
    recipe = replace(find_recipe("mix-4l"), batch=4, opening_steps=3)
    stream = stream_batches(recipe, 9)
    plain = stream_batches(replace(recipe, opening_steps=0), 9)
    opening = [next(stream).tokens for _ in range(3)]
    main = [next(plain).tokens for _ in range(3)]
    assert torch.equal(next(stream).tokens, main[0])
    rows = [tuple(row) for batch in (*opening, *main) for row in batch.tolist()]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", TRAINED)
def test_answers_are_predicted_as_one_prompt_at_a_time(name: str) -> None:
    model = fresh_model(name)
    sentences = [d.sentences[0] for d in generate_documents(12, 1, kinds=["ioi", "agreement", "docstring"])]
    ids = token_ids()
    together = predict_answers(model, sentences)
    for row, sentence in zip(together, sentences, strict=True):
        prompt = torch.tensor([[ids[BOS]] + [ids[word] for word in sentence.words[: sentence.answer]]])
        with torch.no_grad():
            alone = model(prompt).logits[0, -1]
        assert torch.allclose(row, alone, atol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_induction_score_is_the_attention_to_the_word_after_the_first_occurrence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh_model(name)
    seen: list[torch.Tensor] = []

    def record(model, tokens):
        seen.append(tokens)
        return capture_patterns(model, tokens)

    monkeypatch.setattr("interp.models.bundled.evaluate.capture_patterns", record)
    scores, accuracy = measure_induction(model, n=3, length=5, seed=2)
    (tokens,) = seen
    patterns, logits = capture_patterns(model, tokens)
    for layer, pattern in enumerate(patterns):
        for head in range(pattern.shape[1]):
            values = []
            for row, column in [(r, c) for r in range(3) for c in range(6, 10)]:
                first = tokens[row, :column].tolist().index(tokens[row, column])
                values.append(float(pattern[row, head, column, first + 1]))
            assert float(scores[layer, head]) == pytest.approx(sum(values) / len(values), abs=1e-6)
    right = [int(logits[r, c].argmax()) == int(tokens[r, c + 1]) for r in range(3) for c in range(6, 10)]
    assert accuracy == pytest.approx(sum(right) / len(right))


def test_consistency_compares_the_values_words_where_the_value_is_known() -> None:
    model = fresh_model("mix-4l")
    documents = list(generate_documents(6, 3, "heldout", ["attributes"]))
    ids, right, total = token_ids(), 0, 0
    for document in documents:
        row = torch.tensor([[ids[BOS], *(ids[word] for word in document.words)]])
        with torch.no_grad():
            probabilities = model(row).logits[0].softmax(-1)
        owners = [s for s in document.sentences for _ in s.words]
        values = document.values_of("tense")
        for i, word in enumerate(document.words):
            place = [s is owners[i] for s in document.sentences].index(True)
            if place == 0 or document.sentences[place - 1].attributes["tense"] != values[i]:
                continue
            if word in ATTRIBUTE_WORDS["tense"][values[i]]:
                mass = {
                    value: sum(float(probabilities[i, ids[w]]) for w in words if w in ids)
                    for value, words in ATTRIBUTE_WORDS["tense"].items()
                }
                right += max(mass, key=mass.__getitem__) == values[i]
                total += 1
    assert total > 20
    assert measure_consistency(model, 6, 3)["tense"] == pytest.approx(right / total)


def test_patterns_are_read_only_of_models_that_have_them() -> None:
    with pytest.raises(ModelError, match="got Linear"):
        capture_patterns(torch.nn.Linear(2, 2), torch.zeros(1, 2, dtype=torch.long))


def test_tokenizer_reads_words_years_and_spaces_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    build_world_tokenizer(128).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = token_ids()
    assert tokenizer.get_vocab() == dict(ids)
    assert tokenizer.encode(" Mary", add_special_tokens=False) == tokenizer.encode(
        "Mary", add_special_tokens=False
    )
    assert tokenizer.encode("Mary") == [tokenizer.bos_token_id, ids["Mary"]]
    assert tokenizer.encode("mary", add_special_tokens=False) == [tokenizer.unk_token_id]
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("to 1732.")) == [BOS, "to", "17", "32", "."]
    assert tokenizer(["Mary", "Then, Mary"], padding=True)["input_ids"][0][:2] == [ids["<pad>"]] * 2


@pytest.mark.parametrize(
    "text",
    [
        "Then, Mary and John went to the store. John gave a drink to",
        "The war lasted from the year 1732 to the year 17",
        "So Emily is a really great friend, isn't she?",
        'def size(self, load, file): """ red drink: param load: box',
    ],
)
def test_tokenizer_gives_the_text_back(text: str) -> None:
    tokenizer = build_world_tokenizer(128)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_tokenizer_splits_generated_text_into_the_words_it_was_made_of() -> None:
    tokenizer = build_world_tokenizer(128)
    for document in generate_documents(200, 13):
        encoded = tokenizer.encode(" ".join(document.words), add_special_tokens=False)
        assert tuple(tokenizer.convert_ids_to_tokens(encoded)) == document.words


@pytest.mark.parametrize("name", TRAINED)
def test_shipped_weights_do_what_their_card_says(name: str) -> None:
    from transformers import AutoModelForCausalLM

    import interp.models.plain  # noqa: F401

    folder = data_path(f"models/{name}")
    card = read_card(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    measured = evaluate_heldout(model, card.heldout_n, card.heldout_seed)
    assert measured.keys() == card.heldout.keys()
    # the same weights: only rounding is left, and a sentence or two on the edge
    for figure, value in card.heldout.items():
        assert abs(measured[figure] - value) <= min(0.005, tolerance_of(card, figure)), figure
    assert card.heldout["induction_score"] > 0.5
    assert torch.allclose(torch.tensor(card.induction_scores), measure_induction(model)[0], atol=1e-3)
    if name == "mix-4l":
        assert min(card.heldout[f"ioi{part}_accuracy"] for part in ("", "_abba", "_baba")) >= 0.95
        assert card.heldout["greater_than_prob_diff"] > 0.5
        assert card.heldout["agreement_accuracy"] >= 0.98
        assert min(card.heldout[f"{attribute}_accuracy"] for attribute in STEERABLE) > 0.8


def test_shipped_tokenizer_and_recipe_are_those_of_the_code() -> None:
    from transformers import AutoTokenizer

    for name in TRAINED:
        folder = data_path(f"models/{name}")
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == dict(token_ids())
        assert read_card(folder).recipe == find_recipe(name).describe()


def test_shipped_data_is_small() -> None:
    assert sum(path.stat().st_size for path in data_path().rglob("*") if path.is_file()) < 15e6


def test_too_few_sentences_are_refused() -> None:
    with pytest.raises(ModelError, match="at least 20 sentences"):
        evaluate_heldout(fresh_model("induction-2l"), n=5)
