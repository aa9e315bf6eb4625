"""The model type everything above works with: a thin shell around a hooked transformer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import ModelError, TokenizationError
from interp.models.families.base import Family, is_added, is_replaced
from interp.models.hooked_generation import generate_hooked
from interp.models.positions import Prompt
from interp.models.sites import available_components
from interp.models.traits import Traits, Weights


class Model:
    """A loaded model: logits, tokens, generation, traits, weights and hook points.

    Made by :func:`interp.load_model`. ``module`` is the Hugging Face model (raw, its attention and
    MLP wrapped by TransformerLens so that every activation passes a hook point) or a
    ``HookedTransformer``; ``hook_points`` maps hook names to those points. Calling the model gives
    logits and builds no cache::

        logits = model(tokens)                 # [batch, pos, d_vocab]
        logits = model("Then, Mary and John")  # text is tokenised as by to_tokens
    """

    def __init__(
        self,
        module: nn.Module,
        hook_points: Mapping[str, nn.Module],
        family: Family,
        traits: Traits,
        parameters: Mapping[str, Tensor],
        tokenizer: Any = None,
        name: str = "model",
        revision: str | None = None,
        bridge: Any = None,
        prepend_bos: bool | None = None,
    ) -> None:
        self.module = module
        self.hook_points = dict(hook_points)
        self.family = family
        self.traits = traits
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.bridge = bridge
        self._parameters = parameters
        self._prompt: Prompt | None = None
        self.beams = 1
        """Beams of the generation now running: under a KV cache their rows change places between steps."""
        self.active_edits: list[tuple[str, int, Any]] = []
        """Edits now installed, as (hook name, stage, torch hook); kept by ``models.hooks``."""
        self.edit_handles: dict[str, list[Any]] = {}
        self.edited_results: dict[int, Tensor] = {}
        """``result`` of each layer as edited so far in the forward now running; kept by ``models.intervene``."""
        self.attached: dict[tuple[str, int], int] = {}
        """Coders now attached: number of latents by (component, layer); kept by ``models.attached``."""
        self.rules_in_force: list[Any] = []
        """Relevance rules now installed, the innermost last; kept by ``models.relevance``."""
        self.blocks_check: tuple[int, str] | None = None
        """Which parts the block functions were last checked on, and how they differed; kept by ``models.blocks``."""
        self.prepend_bos = _bos_by_default(tokenizer, family) if prepend_bos is None else prepend_bos

    def __repr__(self) -> str:
        t = self.traits
        heads = f"{t.n_heads} heads" + (f" ({t.n_kv_heads} kv)" if t.n_kv_heads != t.n_heads else "")
        return (
            f"Model({self.name!r}, {t.family}, {t.n_layers} layers, {heads}, d_model {t.d_model}, "
            f"d_mlp {t.d_mlp}, vocabulary {t.d_vocab})"
        )

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def components(self) -> tuple[str, ...]:
        """Every component of the site language that this model has."""
        return available_components(self.family, self.traits)

    @property
    def weights(self) -> Weights:
        """Weights in this package's shapes, as views on the parameters; read afresh each time."""
        return self.family.read_weights(self._parameters, self.traits)

    @cached_property
    def is_hooked_transformer(self) -> bool:
        return self.family.name == "hooked_transformer"

    @property
    def is_causal(self) -> bool:
        """Whether no token sees a later one; only a ``HookedTransformer`` may be otherwise."""
        config = getattr(self.module, "cfg", None) if self.is_hooked_transformer else None
        return bool(getattr(config, "attention_dir", "causal") == "causal")

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trainable parameters that the forward pass uses, each once."""
        if self.bridge is None:
            yield from self.module.parameters()
            return
        for name, parameter in self.module.named_parameters():
            if not is_added(name) and not is_replaced(name):
                yield parameter

    def named_weights(self) -> dict[str, Tensor]:
        """Every parameter by the name it has in the model's own checkpoint."""
        return dict(self._parameters)

    def train(self, mode: bool = True) -> Model:
        """Training mode of the module (dropout on); returns self.

        Warns where TransformerLens leaves out a dropout that the config asks for.
        """
        option = self.family.lost_dropout
        rate = getattr(getattr(self.module, "config", None), option, 0) if option else 0
        if mode and rate:
            warnings.warn(
                f"{self.name}: {option}={rate} is not applied in the attention as wrapped by TransformerLens; set "
                "it to 0 in the config, or train in evaluation mode.",
                stacklevel=2,
            )
        self.module.train(mode)
        return self

    def eval(self) -> Model:
        """Evaluation mode; returns self."""
        return self.train(False)

    def __call__(
        self,
        tokens: Int[Tensor, "batch pos"] | Int[Tensor, " pos"] | str | Sequence[str],
        attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
        keep_columns: Int[Tensor, " kept"] | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """Logits of every position. ``attention_mask`` is False on padding, on either side.

        With ``keep_columns`` only these columns are unembedded: [batch, kept, d_vocab].

        Raises :class:`ModelError` on an empty batch, ids outside the vocabulary or too many tokens.
        """
        if not isinstance(tokens, Tensor):
            tokens, attention_mask = self.to_padded_tokens([tokens] if isinstance(tokens, str) else tokens)
        tokens, attention_mask = self._check_tokens(tokens, attention_mask)
        if self.is_hooked_transformer:
            logits = self._call_hooked(tokens, attention_mask)
            return logits if keep_columns is None else logits[:, keep_columns.to(logits.device)]
        inputs: dict[str, Tensor] = {"input_ids": tokens}
        if keep_columns is not None:
            inputs["logits_to_keep"] = keep_columns.to(tokens.device)
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.long()
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        return self.module(**inputs, use_cache=False).logits

    def _call_hooked(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        module: Any = self.module
        if mask is not None and not self.is_causal and not bool(mask.all()):
            raise ModelError(
                "a bidirectional HookedTransformer attends to padding; give prompts of one length."
            )
        # without a mask it would guess one from the tokenizer's pad token
        return module(tokens, attention_mask=torch.ones_like(tokens) if mask is None else mask.long())

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "batch pos"] | Int[Tensor, " pos"] | str | Sequence[str],
        max_new_tokens: int = 20,
        attention_mask: Tensor | None = None,
        use_cache: bool = True,
        **options: Any,
    ) -> Int[Tensor, "row total"]:
        """Prompt and continuation as tokens; greedy unless ``do_sample=True``.

        Several prompts of unequal length must be padded on the left (text is). ``options`` go to
        Hugging Face's ``generate`` (``temperature``, ``top_k``, ``eos_token_id`` ...). Active
        interventions apply at every step, with and without the KV cache alike; where a prompt is
        continued several times (``num_return_sequences``, beams), their rows and labels mean prompts.

        Raises :class:`ModelError` for prompts padded on the right, or that with their continuation
        do not fit the context.
        """
        if not isinstance(tokens, Tensor):
            tokens, attention_mask = self.to_padded_tokens(
                [tokens] if isinstance(tokens, str) else tokens, padding_side="left"
            )
        tokens, attention_mask = self._check_tokens(tokens, attention_mask)
        if attention_mask is not None and not bool(attention_mask[:, -1].all()):
            raise ModelError("generate needs prompts padded on the left; a row ends in padding.")
        total = tokens.shape[1] + max_new_tokens
        # the last token is not read again
        if max_new_tokens < 1 or total - 1 > self.traits.n_ctx:
            raise ModelError(
                f"{tokens.shape[1]} tokens and {max_new_tokens} new ones do not fit the model's context of "
                f"{self.traits.n_ctx}; max_new_tokens must lie in 1..{self.traits.n_ctx - tokens.shape[1] + 1}."
            )
        beams = int(options.get("num_beams") or 1) if use_cache else 1
        with self.continuing(Prompt.from_mask(len(tokens), tokens.shape[1], attention_mask), beams):
            mask = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
            options = {"do_sample": False, **options}
            if options.get("pad_token_id") is None:
                options["pad_token_id"] = self._pad_token()
            if self.is_hooked_transformer:
                return generate_hooked(self.module, tokens, mask.bool(), max_new_tokens, use_cache, options)
            module: Any = self.module
            return module.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                use_cache=use_cache,
                **options,
            )

    @contextmanager
    def continuing(self, prompt: Prompt, beams: int = 1) -> Iterator[None]:
        """Take what comes after ``prompt`` as generated, in every forward inside the block.

        A plain forward over prompt and continuation then steers the tokens that generation would have.
        """
        before = self._prompt, self.beams
        self._prompt, self.beams = prompt, beams
        try:
            yield
        finally:
            self._prompt, self.beams = before

    @property
    def generating_from(self) -> Prompt | None:
        """The prompt of the generation now running, if any."""
        return self._prompt

    def _pad_token(self) -> int:
        tokenizer = self.tokenizer
        for name in ("pad_token_id", "eos_token_id"):
            found = getattr(tokenizer, name, None) if tokenizer is not None else None
            if isinstance(found, int):
                return found
        return 0

    def _check_tokens(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if tokens.ndim == 1:
            tokens = tokens[None]
        if tokens.ndim != 2 or tokens.numel() == 0:
            raise ModelError(
                f"tokens must be [batch, pos] with at least one token; got shape {tuple(tokens.shape)}."
            )
        if tokens.is_floating_point():
            raise ModelError(f"tokens must be integer ids; got {tokens.dtype}.")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.traits.d_vocab:
            raise ModelError(
                f"token ids must lie in 0..{self.traits.d_vocab - 1}; got {low}..{high}. Was the text "
                "tokenised with this model's tokenizer?"
            )
        if tokens.shape[1] > self.traits.n_ctx:
            raise ModelError(
                f"{tokens.shape[1]} tokens are more than the model's context of {self.traits.n_ctx}; "
                "shorten the prompt."
            )
        if mask is not None:
            _check_mask(mask, tokens)
        return tokens.to(self.device), None if mask is None else mask.to(self.device)

    def _need_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise TokenizationError(
                f"model {self.name!r} has no tokenizer; give token tensors, or load it with tokenizer=..."
            )
        return self.tokenizer

    def to_tokens(self, text: str, prepend_bos: bool | None = None) -> Int[Tensor, "1 pos"]:
        """Tokens of one text, [1, pos]; ``prepend_bos=None`` follows ``model.prepend_bos``."""
        ids = self._encode(text, prepend_bos)
        return torch.tensor([ids], dtype=torch.long, device=self.device)

    def to_padded_tokens(
        self, texts: Sequence[str], prepend_bos: bool | None = None, padding_side: str = "right"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
        """Tokens of several texts and their attention mask (``None`` when all are equally long)."""
        rows = [self._encode(text, prepend_bos) for text in texts]
        if not rows:
            raise ModelError("got an empty list of texts; give at least one.")
        width = max(map(len, rows))
        tokens = torch.full((len(rows), width), self._pad_token(), dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, ids in enumerate(rows):
            place = slice(width - len(ids), width) if padding_side == "left" else slice(0, len(ids))
            tokens[i, place] = torch.tensor(ids)
            mask[i, place] = True
        return tokens.to(self.device), None if bool(mask.all()) else mask.to(self.device)

    def _encode(self, text: str, prepend_bos: bool | None) -> list[int]:
        tokenizer = self._need_tokenizer()
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids and text:
            raise TokenizationError(
                f"the tokenizer of {self.name!r} turns {text!r} into no tokens; it is not usable. "
                "Check that its files are complete."
            )
        if self.prepend_bos if prepend_bos is None else prepend_bos:
            bos = tokenizer.bos_token_id
            if bos is None:
                raise TokenizationError(f"the tokenizer of {self.name!r} has no BOS token to prepend.")
            ids = [bos, *ids]
        return ids

    def to_str_tokens(self, text: str | Tensor, prepend_bos: bool | None = None) -> list[str]:
        """Each token as text, of a string or of ids [pos] or [1, pos]."""
        ids = self._encode(text, prepend_bos) if isinstance(text, str) else text.reshape(-1).tolist()
        if self.tokenizer is None:
            return [str(i) for i in ids]
        return [self._token_text(i) for i in ids]

    def _token_text(self, token: int) -> str:
        tokenizer = self._need_tokenizer()
        piece = tokenizer.convert_ids_to_tokens(token)
        decoded = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        # SentencePiece drops the leading space of a lone token; its own spelling keeps it as "▁"
        if isinstance(piece, str) and piece.startswith("▁") and not decoded.startswith(" "):
            return " " + decoded
        return decoded if decoded or piece is None else str(piece)

    def to_string(self, tokens: Tensor) -> str:
        """Text of ids [pos] or [1, pos], special tokens included."""
        return self._need_tokenizer().decode(tokens.reshape(-1).tolist(), clean_up_tokenization_spaces=False)


def _check_mask(mask: Tensor, tokens: Tensor) -> None:
    if mask.shape != tokens.shape:
        raise ModelError(f"attention_mask has shape {tuple(mask.shape)}, tokens {tuple(tokens.shape)}.")
    real = mask.bool().int()
    edges = torch.nn.functional.pad(real, (1, 1)).diff(dim=1).abs().sum(dim=1)
    if bool((edges != 2).any()):
        row = int((edges != 2).int().argmax())
        what = "has no real token" if not bool(real[row].any()) else "has padding between its tokens"
        raise ModelError(f"row {row} of attention_mask {what}; pad on the left or on the right only.")


def _bos_by_default(tokenizer: Any, family: Family) -> bool:
    """GPT-2's own tokenizer adds no BOS, yet the field prepends it (TransformerLens does)."""
    if tokenizer is None or getattr(tokenizer, "bos_token_id", None) is None:
        return False
    if family.name in ("gpt2", "gpt_neox", "hooked_transformer", "plain"):
        return True
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
