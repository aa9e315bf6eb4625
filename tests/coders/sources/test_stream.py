"""Activations streamed from a model: values and gradients by hand, every kind of data, and resuming."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch
from activation_rows import read_all, rows_by_hand, same_rows, through_json
from model_zoo import make_bare, specimen
from torch.nn.functional import cross_entropy
from word_tokenizer import make_tokenizer

import interp
from interp.coders.sources import stream_activations
from interp.errors import CoderError, ModelError, SiteError

PROMPTS = [[3, 7, 9, 4], [4, 11], [5, 6, 8, 2, 11, 31, 30], [12], [14, 15, 16, 17, 44], [9, 9, 9]]
SITES = ["mlp_in[1]", "mlp_out[1]", "resid_mid[0]", "z[1]", "z[0.2]", "mlp_post[0]", "embed"]
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(params=["gpt2", "llama", "mix-4l"])
def model(request: pytest.FixtureRequest) -> Any:
    return interp.load_model("mix-4l") if request.param == "mix-4l" else specimen(request.param).model


@pytest.fixture(scope="module")
def llama() -> Any:
    return specimen("llama").model


@pytest.fixture(scope="module")
def texting() -> Any:
    """A model with a word-level tokenizer, which begins every text with BOS (0)."""
    return interp.load_model(make_bare("gpt2"), tokenizer=make_tokenizer())


def _left_padded() -> Any:
    for start in range(0, len(PROMPTS), 3):
        rows = PROMPTS[start : start + 3]
        width = max(map(len, rows))
        tokens = torch.tensor([[1] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
        yield tokens, mask


def _padded_columns() -> dict[str, Any]:
    width = max(map(len, PROMPTS))
    ids = [row + [0] * (width - len(row)) for row in PROMPTS]
    return {
        "input_ids": ids,
        "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in PROMPTS],
    }


def _texts() -> list[str]:
    return [" ".join(f"w{token}" for token in row) for row in PROMPTS]


DATA = {
    "lists": lambda: PROMPTS,
    "tensors": lambda: [torch.tensor(row) for row in PROMPTS],
    "generator": lambda: (row for row in PROMPTS),
    "factory": lambda: lambda: iter(PROMPTS),
    "left-padded pairs": lambda: list(_left_padded()),
    "dataset": lambda: datasets.Dataset.from_dict({"tokens": PROMPTS}),
    "padded dataset": lambda: datasets.Dataset.from_dict(_padded_columns()),
    "iterable dataset": lambda: datasets.Dataset.from_dict({"tokens": PROMPTS}).to_iterable_dataset(
        num_shards=2
    ),
    "shuffled iterable dataset": lambda: (
        datasets.Dataset.from_dict({"tokens": PROMPTS}).to_iterable_dataset().shuffle(seed=1, buffer_size=3)
    ),
}


class TestRows:
    @pytest.mark.parametrize(
        "site", ["mlp_in[1]", "mlp_out[1]", "resid_mid[0]", "z[1]", "z[0.2]", "mlp_post[0]", "embed"]
    )
    def test_are_what_capture_gives(self, model: Any, site: str):
        """Prompts of unequal length in one batch are each as alone; padding and the first token are left out."""
        found = read_all(stream_activations(model, PROMPTS, site, batch_size=4))
        torch.testing.assert_close(found.x, rows_by_hand(model, PROMPTS, site), **CLOSE)
        assert found.is_reconstruction
        assert found.token.tolist() == [token for row in PROMPTS for token in row[1:]]
        assert found.position.tolist() == [at for row in PROMPTS for at in range(1, len(row))]
        assert found.prompt.tolist() == [i for i, row in enumerate(PROMPTS) for _ in row[1:]]

    def test_first_tokens_are_there_when_asked_for(self, llama: Any):
        found = read_all(stream_activations(llama, PROMPTS, "mlp_out[1]", skip_first=False, batch_size=2))
        torch.testing.assert_close(found.x, rows_by_hand(llama, PROMPTS, "mlp_out[1]", first=0), **CLOSE)
        assert found.position.tolist() == [at for row in PROMPTS for at in range(len(row))]

    def test_several_sites_and_a_target(self, llama: Any):
        source = stream_activations(
            llama, PROMPTS, ["mlp_out[1]", "resid_pre[0]"], target="z", batch_size=3, dtype=torch.float64
        )
        found = read_all(source)
        assert (source.layout.sites, source.layout.target_sites) == (
            ("mlp_out[1]", "resid_pre[0]"),
            ("z[0]", "z[1]"),
        )
        assert (source.layout.d_in, source.layout.n_inputs) == (36, 2)
        assert (source.layout.d_out, source.layout.n_outputs) == (40, 2)
        assert found.x.dtype == found.target.dtype == torch.float64
        for number, site in enumerate(["mlp_out[1]", "resid_pre[0]"]):
            torch.testing.assert_close(
                found.x[:, number].float(), rows_by_hand(llama, PROMPTS, site), **CLOSE
            )
        for layer in (0, 1):
            expected = rows_by_hand(llama, PROMPTS, f"z[{layer}]")
            torch.testing.assert_close(found.target[:, layer].float(), expected, **CLOSE)

    def test_widths_are_known_before_a_forward(self, model: Any):
        for site in (
            "z[0]",
            "k[0]",
            "q[0.1]",
            "mlp_post[0]",
            "mlp_post[0].n3,5",
            "resid_post[1]",
            "result[0]",
        ):
            source = stream_activations(model, PROMPTS, site)
            assert source.next_chunk().x.shape[1] == source.layout.d_in, site

    def test_named_positions_choose_rows(self, llama: Any):
        found = read_all(stream_activations(llama, PROMPTS, "mlp_out[1]@-1", batch_size=4))
        last = [rows_by_hand(llama, [row], "mlp_out[1]", first=0)[-1] for row in PROMPTS]
        torch.testing.assert_close(found.x, torch.stack(last), **CLOSE)
        assert found.position.tolist() == [len(row) - 1 for row in PROMPTS]

    @pytest.mark.parametrize("kind", DATA)
    def test_of_every_kind_of_data(self, llama: Any, kind: str):
        data = DATA[kind]()
        found = read_all(stream_activations(llama, data, "mlp_out[1]", batch_size=4))
        rows = PROMPTS
        if kind.startswith("shuffled"):
            rows = [item["tokens"] for item in data]
            assert sorted(rows) == sorted(PROMPTS)
            assert rows != PROMPTS
        torch.testing.assert_close(found.x, rows_by_hand(llama, rows, "mlp_out[1]"), **CLOSE)

    def test_of_texts(self, texting: Any):
        for data in (_texts(), datasets.Dataset.from_dict({"text": _texts()})):
            found = read_all(stream_activations(texting, data, "mlp_out[1]", batch_size=4))
            expected = rows_by_hand(texting, [[0, *row] for row in PROMPTS], "mlp_out[1]")
            torch.testing.assert_close(found.x, expected, **CLOSE)

    def test_a_tensor_of_tokens(self, llama: Any):
        tokens = torch.randint(0, 53, (5, 6), generator=torch.Generator().manual_seed(1))
        found = read_all(stream_activations(llama, tokens, "mlp_out[1]", batch_size=2))
        torch.testing.assert_close(found.x, rows_by_hand(llama, tokens.tolist(), "mlp_out[1]"), **CLOSE)

    def test_no_logits_but_the_last_are_computed(self, llama: Any, monkeypatch: pytest.MonkeyPatch):
        kept = []
        call = type(llama).__call__

        def watch(self: Any, tokens: Any, mask: Any = None, keep_columns: Any = None) -> Any:
            kept.append(keep_columns)
            return call(self, tokens, mask, keep_columns)

        monkeypatch.setattr(type(llama), "__call__", watch)
        stream_activations(llama, PROMPTS, "z[0]", batch_size=2).next_chunk()
        assert [columns.tolist() for columns in kept] == [[3]]

    def test_the_model_is_left_as_it_was(self, llama: Any):
        source = stream_activations(llama, PROMPTS, "z[0]", gradients=True, batch_size=2)
        chunk = source.next_chunk()
        assert not llama.active_edits
        assert not chunk.x.requires_grad
        assert torch.is_grad_enabled()
        assert all(parameter.grad is None for parameter in llama.parameters())


class TestLongPrompts:
    def test_are_split_into_contexts(self, llama: Any):
        """Each context is run alone; without a tokenizer no token is a BOS."""
        source = stream_activations(llama, PROMPTS, "mlp_out[1]", context=3, batch_size=2, skip_first=False)
        found = read_all(source)
        pieces = [row[at : at + 3] for row in PROMPTS for at in range(0, len(row), 3)]
        torch.testing.assert_close(found.x, rows_by_hand(llama, pieces, "mlp_out[1]", first=0), **CLOSE)
        assert found.prompt.tolist() == [i for i, row in enumerate(PROMPTS) for _ in row]
        assert found.position.tolist() == [at % 3 for row in PROMPTS for at in range(len(row))]

    def test_every_context_begins_with_bos_where_the_prompt_does(self, texting: Any):
        found = read_all(stream_activations(texting, _texts(), "mlp_out[1]", context=4, batch_size=2))
        pieces = [[0, *row[at : at + 3]] for row in PROMPTS for at in range(0, len(row), 3)]
        torch.testing.assert_close(found.x, rows_by_hand(texting, pieces, "mlp_out[1]"), **CLOSE)
        assert found.token.tolist() == [token for row in PROMPTS for token in row]

    def test_are_truncated_or_refused(self, llama: Any):
        found = read_all(stream_activations(llama, PROMPTS, "z[0]", context=3, long_prompts="truncate"))
        torch.testing.assert_close(
            found.x, rows_by_hand(llama, [row[:3] for row in PROMPTS], "z[0]"), **CLOSE
        )
        with pytest.raises(CoderError, match="prompt 0 has 4 tokens, a context 3"):
            stream_activations(llama, PROMPTS, "z[0]", context=3, long_prompts="error").next_chunk()


def _loss_gradients(bare: Any, part: Any, prompts: list[list[int]]) -> torch.Tensor:
    """dL/d(output of a module), L summed over the prompt, each prompt alone through the bare model."""
    rows = []
    for prompt in prompts:
        if len(prompt) < 2:
            continue
        kept: list[torch.Tensor] = []
        handle = part.register_forward_hook(lambda module, inputs, output, kept=kept: kept.append(output))
        tokens = torch.tensor([prompt])
        logits = bare(input_ids=tokens, use_cache=False).logits
        handle.remove()
        loss = cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum")
        rows.append(torch.autograd.grad(loss, kept[0])[0][0, 1:])
    return torch.cat(rows)


class TestGradients:
    @pytest.mark.parametrize("data", ["lists", "left-padded pairs"])
    @pytest.mark.parametrize("name", ["gpt2", "llama"])
    def test_are_autograds_of_the_loss_summed_over_the_prompt(self, name: str, data: str):
        found = specimen(name)
        layers = found.bare.transformer.h if name == "gpt2" else found.bare.model.layers
        expected = _loss_gradients(found.bare, layers[0].mlp, PROMPTS)
        source = stream_activations(
            found.model, DATA[data](), "mlp_out[0]", target="resid_post[1]", gradients=True, batch_size=4
        )
        rows = read_all(source)
        assert source.layout.has_grad
        torch.testing.assert_close(rows.grad, expected, atol=2e-4, rtol=2e-4)
        assert float(expected.abs().max()) > 0.1

    def test_of_several_sites_predict_the_loss(self, llama: Any):
        """A small step along one row's gradient changes the loss by its dot product."""
        prompt = [[3, 7, 9, 4, 22, 13]]
        rows = read_all(stream_activations(llama, prompt, ["z[0]", "z[1]"], gradients=True))
        tokens = torch.tensor(prompt)

        def loss(**changes: float) -> float:
            step = changes["size"] * torch.randn(40, generator=torch.Generator().manual_seed(0))
            with torch.no_grad(), interp.intervene(llama, interp.add("z[1]@3", step.view(4, 10))):
                logits = llama(tokens).double()
            return float(cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum"))

        direction = torch.randn(40, generator=torch.Generator().manual_seed(0))
        slope = (loss(size=0.01) - loss(size=-0.01)) / 0.02
        assert rows.position[2] == 3
        assert float(rows.grad[2, 1] @ direction) == pytest.approx(slope, rel=2e-2)


class TestJoint:
    def test_several_coders_share_one_forward(self, llama: Any, monkeypatch: pytest.MonkeyPatch):
        sites: dict[str, Any] = {"early": "mlp_out[0]", "heads": "z[1]", "again": "mlp_out[0]"}
        source = stream_activations(
            llama, PROMPTS, sites, target={"heads": "resid_post[1]"}, gradients=True, batch_size=6
        )
        forwards = []
        handle = llama.module.register_forward_pre_hook(lambda *_: forwards.append(1))
        found = source.next_chunk()
        handle.remove()
        assert len(forwards) == 1
        assert source.next_chunk() is None
        for name, site in sites.items():
            target = "resid_post[1]" if name == "heads" else site
            alone = stream_activations(llama, PROMPTS, site, target=target, gradients=True, batch_size=6)
            assert same_rows(found[name], read_all(alone))
            assert source.layouts[name] == alone.layout
        assert found["early"].x is found["again"].x

    def test_names_and_targets_that_do_not_fit(self, llama: Any):
        with pytest.raises(CoderError, match="target maps some of the names"):
            stream_activations(llama, PROMPTS, {"a": "z[0]"}, target={"b": "z[1]"})
        for names in ({}, {"a/b": "z[0]"}, {"": "z[0]"}):
            with pytest.raises(CoderError, match="named by letters"):
                stream_activations(llama, PROMPTS, names)
        with pytest.raises(CoderError, match="the same positions"):
            stream_activations(llama, PROMPTS, {"a": "z[0]", "b": "z[0]@-1"})


class TestResume:
    @pytest.mark.parametrize("kind", DATA)
    def test_at_every_point_is_equal_to_the_bit(self, llama: Any, kind: str):
        """In a new process an iterator or a streamed data set is a new object."""
        make = lambda: stream_activations(llama, DATA[kind](), "mlp_out[1]", context=4, batch_size=2)  # noqa: E731
        source, states, chunks = make(), [], []
        states.append(through_json(source.state()))
        while (chunk := source.next_chunk()) is not None:
            chunks.append(chunk)
            states.append(through_json(source.state()))
        assert len(chunks) >= 4
        for done, state in enumerate(states):
            again = make()
            again.restore(state)
            for expected in chunks[done:]:
                assert same_rows(again.next_chunk(), expected)
            assert again.next_chunk() is None

    def test_a_streamed_data_set_goes_on_by_its_own_state(self, llama: Any):
        """What lies before is not read again, and the caller's data set is left as it was."""
        read: list[int] = []

        def watch(row: dict[str, Any], number: int) -> dict[str, Any]:
            read.append(number)
            return row

        data = datasets.Dataset.from_dict({"tokens": PROMPTS}).to_iterable_dataset(num_shards=6)
        data = data.map(watch, with_indices=True)
        source = stream_activations(llama, data, "z[0]", batch_size=2)
        for _ in range(2):
            source.next_chunk()
        state = through_json(source.state())
        expected = read_all(source)
        read.clear()
        again = stream_activations(llama, data, "z[0]", batch_size=2)
        again.restore(state)
        assert same_rows(read_all(again), expected)
        assert read == [2, 3, 4, 5]
        assert [row["tokens"] for row in data] == PROMPTS

    @pytest.mark.parametrize("kind", [kind for kind in DATA if kind != "generator"])
    def test_a_new_epoch_is_the_first_again(self, llama: Any, kind: str):
        source = stream_activations(llama, DATA[kind](), "mlp_out[1]", batch_size=4)
        first = read_all(source)
        source.restart()
        assert same_rows(read_all(source), first)
        source.restart()
        source.next_chunk()
        state = source.state()
        rest = read_all(source)
        source.restore(state)
        assert same_rows(read_all(source), rest)

    def test_an_iterator_has_one_epoch(self, llama: Any):
        source = stream_activations(llama, DATA["generator"](), "z[0]", batch_size=2)
        source.restart()
        source.next_chunk()
        with pytest.raises(CoderError, match="give a list, a data set, or a function"):
            source.restart()
        with pytest.raises(CoderError, match="an iterator, which gives its items once"):
            source.restore(source.state())

    def test_changed_data_and_other_streams_are_refused(self, llama: Any):
        source = stream_activations(llama, lambda: iter(PROMPTS), "z[0]", batch_size=2)
        source.next_chunk()
        source.next_chunk()
        other = stream_activations(llama, lambda: iter(PROMPTS[::-1]), "z[0]", batch_size=2)
        with pytest.raises(CoderError, match="at item 2 it has other tokens"):
            other.restore(source.state())
        wider = stream_activations(llama, lambda: iter(PROMPTS), "z[0]", batch_size=3)
        with pytest.raises(CoderError, match="batch_size: 2 there, 3 here"):
            wider.restore(source.state())
        with pytest.raises(CoderError, match=r"data: 'list \w+' there"):
            stream_activations(llama, PROMPTS[1:], "z[0]").restore(
                stream_activations(llama, PROMPTS, "z[0]").state()
            )


class TestRefusals:
    def test_sites(self, llama: Any):
        for sites, error, message in [
            ("mlp_out[7]", SiteError, "names layer 7"),
            ("pattern[0]", CoderError, "no vector a token"),
            ("z[0]#1", CoderError, "no rows or subspaces"),
            (["mlp_out[0]", "z[0]"], CoderError, r"mlp_out\[0\] has 36, z\[0\] has 40"),
            (["z[0]", "z[1]@-1"], CoderError, "same positions"),
        ]:
            with pytest.raises(error, match=message):
                stream_activations(llama, PROMPTS, sites)

    def test_options(self, llama: Any):
        for options, message in [
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"context": 1}, r"must lie in 2\.\.64"),
            ({"context": 65}, r"must lie in 2\.\.64"),
            ({"long_prompts": "cut"}, "Known: error, split, truncate"),
            ({"dtype": torch.int32}, "floating-point type"),
        ]:
            with pytest.raises(CoderError, match=message):
                stream_activations(llama, PROMPTS, "z[0]", **options)

    def test_data(self, llama: Any):
        gap = (torch.tensor([[1, 2, 3]]), torch.tensor([[True, False, True]]))
        for data, message in [
            ([[]], "at least one token"),
            ([gap], "padding between its tokens"),
            ([(gap[0], torch.zeros(1, 3, dtype=torch.bool))], "no real token"),
            ([{"words": "a"}], r"columns \['words'\]"),
            ([object()], "got object"),
            ([[0.5, 1.0]], "integer ids"),
        ]:
            with pytest.raises(ModelError, match=message):
                stream_activations(llama, data, "z[0]").next_chunk()
