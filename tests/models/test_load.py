"""Every way a model can come in."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from model_zoo import HOOKED, NAMES, make_bare, specimen
from tiny_models import FAMILIES, make_hf_model
from torch import Tensor, nn
from word_tokenizer import make_tokenizer

import interp
from interp.errors import ModelError, TokenizationError
from interp.models.bundled import bundled_names
from interp.models.hook_check import refuse_dead_components

ARCHITECTURES = {
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ON_DISK = tuple(name for name in NAMES if name not in HOOKED)


def make_bridge(family: str, **options: Any) -> Any:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bare = make_hf_model(family, **options)
    return build_bridge_from_module(
        bare, ARCHITECTURES[family], hf_config=bare.config, tokenizer=None, device="cpu"
    )


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder as ``save_pretrained`` writes it, tokenizer and all, once for each kind."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            make_bare(name).save_pretrained(made[name])
            make_tokenizer().save_pretrained(made[name])
        return made[name]

    return folder


class TestFolder:
    @pytest.mark.parametrize("name", ON_DISK)
    def test_what_was_saved_is_what_is_loaded(self, folder_of: Any, name: str, tokens: Tensor):
        model = interp.load_model(folder_of(name))
        with torch.no_grad():
            assert torch.equal(model(tokens), specimen(name).model(tokens))
        assert model.name == folder_of(name).name
        assert model.dtype == torch.float32
        assert not model.module.training
        assert model.to_str_tokens("w3 w50 other") == [
            *(["<bos>"] if model.prepend_bos else []),
            "w3",
            "w50",
            "<unk>",
        ]

    def test_a_string_does_too(self, folder_of: Any, tokens: Tensor):
        model = interp.load_model(str(folder_of("llama")), name="mine")
        assert model.name == "mine"
        assert model.to_tokens("w3 w4").tolist() == [[3, 4]]

    def test_weights_of_half_precision_become_fp32_unless_asked(self, tmp_path: Path, tokens: Tensor):
        make_bare("llama").to(torch.bfloat16).save_pretrained(tmp_path)
        tokenizer = make_tokenizer()
        assert interp.load_model(tmp_path, tokenizer).dtype == torch.float32
        half = interp.load_model(tmp_path, tokenizer, dtype=torch.bfloat16)
        assert half.dtype == half(tokens).dtype == torch.bfloat16

    def test_several_files(self, tmp_path: Path, tokens: Tensor):
        make_bare("llama").save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 3
        model = interp.load_model(tmp_path, make_tokenizer())
        assert torch.equal(model(tokens), specimen("llama").model(tokens))

    def test_its_revision_is_of_its_weights(self, tmp_path: Path, folder_of: Any):
        first = interp.load_model(folder_of("llama")).revision
        make_hf_model("llama", seed=1).save_pretrained(tmp_path)
        second = interp.load_model(tmp_path, make_tokenizer()).revision
        again = interp.load_model(folder_of("llama")).revision
        assert first == again != second
        assert len(first) == 12

    @pytest.mark.parametrize("name", FAMILIES)
    def test_without_a_tokenizer_tokens_still_work(self, tmp_path: Path, name: str, tokens: Tensor):
        """Transformers would make one of special tokens alone, which turns any text into nothing."""
        make_bare(name).save_pretrained(tmp_path)
        with pytest.warns(UserWarning, match="no tokenizer was loaded from .* token tensors still work"):
            model = interp.load_model(tmp_path)
        assert model.tokenizer is None
        assert torch.equal(model(tokens), specimen(name).model(tokens))
        with pytest.raises(TokenizationError, match="has no tokenizer"):
            model("w3 w4")

    def test_a_damaged_tokenizer_is_said(self, tmp_path: Path):
        make_bare("llama").save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.warns(UserWarning, match="no tokenizer was loaded"):
            assert interp.load_model(tmp_path).tokenizer is None


class TestNames:
    def test_bundled_ones(self):
        assert {"micro", "planted-copy", "planted-gate"} <= set(bundled_names())
        model = interp.load_model("micro")
        assert (model.name, model.traits.family) == ("micro", "plain")
        assert torch.equal(
            model(torch.tensor([[1, 2, 3]])), interp.load_model("micro")(torch.tensor([[1, 2, 3]]))
        )

    def test_an_unknown_one(self):
        with pytest.raises(ModelError) as caught:
            interp.load_model("micr")
        assert "no model 'micr'; did you mean 'micro'?" in str(caught.value)
        assert "planted-gate" in str(caught.value)
        with pytest.raises(ModelError, match="hub failed"):
            interp.load_model("nothing-like-it")
        with pytest.raises(ModelError, match=r"no model 'somebody/nothing'. It is not a bundled name"):
            interp.load_model("somebody/nothing")
        with pytest.raises(ModelError, match="not a folder"):
            interp.load_model("./no/such/folder")


class TestInMemory:
    def test_a_hugging_face_model(self, tokens: Tensor):
        model = interp.load_model(make_bare("qwen3"), tokenizer=make_tokenizer(), name="mine")
        assert model.name == "mine"
        assert torch.equal(model(tokens), specimen("qwen3").model(tokens))
        assert torch.equal(model("w3 w4"), model(torch.tensor([3, 4])))

    def test_twice_is_an_error(self):
        bare = make_bare("llama")
        interp.load_model(bare)
        with pytest.raises(
            ModelError, match="LlamaForCausalLM is already wrapped by TransformerLens; use the model"
        ):
            interp.load_model(bare)

    def test_one_of_ours_comes_back_as_it_is(self):
        model = specimen("llama").model
        assert interp.load_model(model) is model
        for options in ({"dtype": torch.bfloat16}, {"tokenizer": make_tokenizer()}, {"device": "cpu"}):
            with pytest.raises(ModelError, match="is loaded already; its options were set"):
                interp.load_model(model, **options)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_raw_bridge(self, family: str, tokens: Tensor):
        bridge = make_bridge(family)
        model = interp.load_model(bridge)
        with torch.no_grad():
            assert torch.equal(model(tokens), specimen(family).model(tokens))
            with interp.intervene(model, interp.zero("z[0.1]")):
                changed = model(tokens)
            with interp.intervene(specimen(family).model, interp.zero("z[0.1]")):
                assert torch.equal(changed, specimen(family).model(tokens))
        assert model.components == specimen(family).model.components

    def test_a_bridge_over_another_attention(self, tokens: Tensor):
        """Patterns exist in eager attention only, so it is put back."""
        model = interp.load_model(make_bridge("llama", attn_implementation="sdpa"))
        assert torch.equal(model(tokens), specimen("llama").model(tokens))
        assert "pattern" in model.components

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_bridge_with_processed_weights_is_refused(self, family: str, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.CRITICAL)
        bridge = make_bridge(family)
        bridge.enable_compatibility_mode(disable_warnings=True)
        with pytest.raises(ModelError, match=r"has processed weights .* Boot it again and load it raw"):
            interp.load_model(bridge)

    def test_a_bridge_in_compatibility_mode_without_processing(self, tokens: Tensor):
        bridge = make_bridge("gpt2")
        bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
        model = interp.load_model(bridge)
        cache = interp.capture(model, tokens, model.components)
        expected = interp.capture(specimen("gpt2").model, tokens, model.components)
        for component in set(expected) - {"attn_scores"}:
            assert torch.equal(cache[component], expected[component]), component

    def test_other_things(self):
        for wrong, message in (
            (3, "takes a name, a folder or a loaded model; got int: 3"),
            (None, "got NoneType"),
            (nn.Linear(2, 2), "architecture 'Linear' is not supported. Supported: GPT2LMHeadModel, GPTNeoX"),
            (make_bare("llama").model, "architecture 'LlamaModel' is not supported"),
        ):
            with pytest.raises(ModelError, match=message):
                interp.load_model(wrong)

    def test_a_mixture_of_experts(self):
        from transformers import MixtralConfig, MixtralForCausalLM

        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 20}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
        experts = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
        with pytest.raises(ModelError, match="architecture 'MixtralForCausalLM' is not supported"):
            interp.load_model(experts)

    def test_what_transformer_lens_cannot_wrap(self):
        with pytest.raises(ModelError, match="TransformerLens cannot wrap this GPTNeoXForCausalLM"):
            interp.load_model(make_hf_model("gpt_neox", attention_bias=False))

    @pytest.mark.parametrize("name", ["gpt2", "gemma2", "plain"])
    def test_weights_that_are_no_numbers(self, name: str):
        for value in (torch.nan, torch.inf):
            bare = make_bare(name)
            key, parameter = list(bare.named_parameters())[-3]
            with torch.no_grad():
                parameter.flatten()[0] = value
            with pytest.raises(ModelError, match=f"not finite: 1 entries of {key} are NaN or infinite"):
                interp.load_model(bare)

    def test_a_tokenizer_that_gives_nothing(self):
        """Made of special tokens alone, as Transformers does where the files are missing."""
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        empty = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({"<bos>": 0}, unk_token="<bos>")), bos_token="<bos>"
        )
        with pytest.raises(TokenizationError, match="turns every text into no tokens; it is not usable"):
            interp.load_model(make_bare("llama"), tokenizer=empty)

    def test_a_text_that_gives_nothing(self):
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        letters = Tokenizer(models.BPE({"<bos>": 0, "a": 2, "b": 3}, []))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<bos>")
        model = interp.load_model(make_bare("llama"), tokenizer=tokenizer)
        assert model.to_tokens("ba").tolist() == [[3, 2]]
        with pytest.raises(TokenizationError, match="turns 'xyz' into no tokens"):
            model("xyz")

    def test_moving_and_narrowing(self, tokens: Tensor):
        model = interp.load_model(make_bare("gpt2"), device="cpu", dtype=torch.float64)
        assert model.dtype == torch.float64
        expected = specimen("gpt2").naive(tokens)
        torch.testing.assert_close(model(tokens).detach(), expected, atol=1e-9, rtol=1e-9)


class TestHookCheck:
    def test_a_dead_hook_point_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch, tokens: Tensor):
        """One that never fires, and one of whose value only the dtype is read."""
        from interp.models import load
        from interp.models.families.gpt_neox import hooks_for

        family = load.FAMILIES["gpt_neox"]
        dead = {"q": "blocks.{layer}.attn.hook_rot_q", "mlp_pre": "rotary_emb.hook_in"}
        monkeypatch.setitem(vars(family), "hooks_for", lambda traits: {**hooks_for(traits), **dead})
        with pytest.warns(UserWarning, match="hooks of q, mlp_pre do not act and are refused"):
            model = interp.load_model(make_hf_model("gpt_neox"))
        assert {"q", "mlp_pre"} == set(specimen("gpt_neox").model.components) - set(model.components)
        with pytest.raises(interp.SiteError, match="has no 'q'"):
            interp.capture(model, tokens, "q")
        assert torch.equal(model(tokens), specimen("gpt_neox").model(tokens))

    def test_a_layer_of_zeros_is_no_dead_hook(self):
        """Pruned, or freshly added: nothing that is done to its heads reaches the logits."""
        bare = make_bare("llama")
        with torch.no_grad():
            bare.model.layers[1].self_attn.o_proj.weight.zero_()
            bare.model.layers[0].mlp.down_proj.weight.zero_()
        model = interp.load_model(bare)
        assert model.components == specimen("llama").model.components

    @pytest.mark.parametrize("name", ["gpt2", "plain", "attention_only"])
    def test_every_hook_we_offer_acts(self, name: str):
        assert refuse_dead_components(specimen(name).model) == ()

    def test_it_can_be_left_out(self, tokens: Tensor):
        model = interp.load_model(make_bare("gpt2"), check_hooks=False)
        assert torch.equal(model(tokens), specimen("gpt2").model(tokens))


class TestText:
    def test_bos_as_the_family_has_it(self):
        """GPT-2 and NeoX prepend it; others do as their tokenizer does."""
        for name, expected in (("gpt2", True), ("gpt_neox", True), ("llama", False), ("plain", True)):
            model = interp.load_model(make_bare(name), tokenizer=make_tokenizer())
            assert model.prepend_bos is expected, name
            assert model.to_tokens("w3").tolist() == ([[0, 3]] if expected else [[3]])
            assert model.to_tokens("w3", prepend_bos=not expected).tolist() == (
                [[3]] if expected else [[0, 3]]
            )

    def test_padding_on_either_side(self):
        model = interp.load_model(copy.deepcopy(make_bare("llama")), tokenizer=make_tokenizer())
        texts = ["w3 w4 w5", "w6"]
        for side, row, mask in (
            ("right", [6, 0, 0], [True, False, False]),
            ("left", [0, 0, 6], [False, False, True]),
        ):
            tokens, attention = model.to_padded_tokens(texts, padding_side=side)
            assert tokens.tolist() == [[3, 4, 5], row]
            assert attention.tolist() == [[True] * 3, mask]
        tokens, attention = model.to_padded_tokens(["w3 w4", "w5 w6"])
        assert attention is None
        assert model.to_string(tokens[0]) == "w3 w4"

    def test_generation_pads_on_the_left(self):
        model = interp.load_model(make_bare("llama"), tokenizer=make_tokenizer())
        both = model.generate(["w3 w4 w5", "w6"], 4, eos_token_id=None)
        alone = model.generate("w6", 4, eos_token_id=None)
        assert torch.equal(both[1, -4:], alone[0, -4:])

    def test_ids_beyond_the_vocabulary(self):
        model = interp.load_model(make_bare("llama"), tokenizer=make_tokenizer(size=60))
        with pytest.raises(ModelError, match=r"must lie in 0..52; got 3..58. Was the text tokenised"):
            model("w3 w58")


@pytest.mark.parametrize("name", ["mix-4l", "induction-2l"])
def test_loading_leaves_the_random_state_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    interp.load_model(name)
    assert torch.equal(before, torch.get_rng_state())
