"""The plain transformer as a Hugging Face causal language model."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
    initialization,
)
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from interp.errors import ModelError
from interp.models.plain.config import PlainConfig
from interp.models.plain.layers import Block, Embed, Norm, Unembed


class PlainTransformer(PreTrainedModel, GenerationMixin):
    """A decoder-only transformer with clear weights and a hook point at every activation.

    ``forward`` works as in any Hugging Face causal model: padding on either side through
    ``attention_mask`` (positions then count real tokens), ``past_key_values`` with or without it,
    ``labels`` shifted inside. A cache is returned when asked for, never by default.

    Raises :class:`~interp.errors.ModelError` for a sequence longer than the position table and for
    a mask whose width is not past plus present.
    """

    config_class = PlainConfig
    base_model_prefix = ""
    _no_split_modules = ["Block"]  # noqa: RUF012 - read by Hugging Face under this name
    _supports_sdpa = False
    _supports_flash_attn = False

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        self.embed = Embed("W_E", config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.pos_embed = Embed("W_pos", config.n_ctx, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.ln_final = Norm(config)
        self.unembed = Unembed(config)
        for name, module in self.named_modules():
            if isinstance(module, HookPoint):
                module.name = name
        self.post_init()

    def get_input_embeddings(self) -> Embed:
        """The token embedding."""
        return self.embed

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, also where it is tied to the embedding."""
        return self.embed.W_E.T if self.unembed.W_U is None else self.unembed.W_U

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch total"] | Bool[Tensor, "batch total"] | None = None,
        position_ids: Int[Tensor, "#batch pos"] | None = None,
        past_key_values: Cache | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        **loss_options: Tensor | int,
    ) -> CausalLMOutputWithPast:
        """Logits [batch, pos, d_vocab] and, with ``labels``, the mean loss in nats a token.

        ``logits_to_keep`` is how many last positions to unembed (0: all), or their indices;
        ``loss_options`` go to Hugging Face's loss (``num_items_in_batch``, ``shift_labels``).
        """
        if loss_options and labels is None:
            raise TypeError(f"PlainTransformer.forward got unknown arguments {sorted(loss_options)}.")
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        mask = self._check_mask(attention_mask, input_ids, past)
        resid = self.embed(input_ids)
        if self.config.positions == "learned":
            resid = resid + self.pos_embed(self._find_positions(position_ids, mask, input_ids, past))
        visible = _visible_keys(mask, input_ids, past)
        for block in self.blocks:
            resid = block(resid, visible=visible, cache=past_key_values)
        kept = (
            slice(-logits_to_keep, None)
            if isinstance(logits_to_keep, int) and logits_to_keep
            else slice(None)
        )
        final = self.ln_final(resid)[:, logits_to_keep if isinstance(logits_to_keep, Tensor) else kept]
        logits = self.unembed(final, self.W_U)
        loss = None
        if labels is not None:
            loss = ForCausalLMLoss(logits, labels, vocab_size=self.config.vocab_size, **loss_options)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _check_mask(
        self, mask: Tensor | None, input_ids: Int[Tensor, "batch pos"], past: int
    ) -> Bool[Tensor, "batch total"] | None:
        expected = (input_ids.shape[0], past + input_ids.shape[1])
        if mask is not None and tuple(mask.shape) != expected:
            raise ModelError(
                f"attention_mask must be [batch, past + present] = {list(expected)}; got {list(mask.shape)}. "
                "Cover the cached tokens too, and use a DynamicCache."
            )
        return None if mask is None else mask.to(input_ids.device).bool()

    def _find_positions(
        self,
        given: Int[Tensor, "#batch pos"] | None,
        mask: Bool[Tensor, "batch total"] | None,
        input_ids: Int[Tensor, "batch pos"],
        past: int,
    ) -> Int[Tensor, "#batch pos"]:
        """Row of the position table for every token: real tokens before it, unless given."""
        total, n_ctx = past + input_ids.shape[1], self.config.n_ctx
        if given is not None:
            positions = given
        elif mask is None:
            positions = torch.arange(past, total, device=input_ids.device).expand(input_ids.shape)
        else:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        # Values are read only where the shape leaves them in doubt: reading waits for the device.
        in_range = given is None and total <= n_ctx
        if not in_range and int(positions.max()) >= n_ctx:
            raise ModelError(
                f"position {int(positions.max())} is beyond the model's n_ctx of {n_ctx}; "
                "shorten the sequence."
            )
        return positions

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights as the config says; parameters that were loaded are left alone."""
        config = self.config
        writing = config.initializer_range / math.sqrt(2 * config.n_layers)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "W_pos":
                self._init_positions(parameter)
            elif name == "W_E":
                std = config.initializer_range if config.embed_init_std is None else config.embed_init_std
                initialization.normal_(parameter, std=std)
            elif name == "w":
                initialization.ones_(parameter)
            elif name.startswith("b"):
                initialization.zeros_(parameter)
            else:
                std = writing if name in ("W_O", "W_out") else config.initializer_range
                initialization.normal_(parameter, std=std)

    def _init_positions(self, table: Float[Tensor, "n_ctx d_model"]) -> None:
        config = self.config
        rms = config.initializer_range if config.position_init_std is None else config.position_init_std
        if config.position_init == "normal":
            initialization.normal_(table, std=rms)
        else:
            waves = make_sinusoids(*table.shape).to(table)
            initialization.copy_(table, waves * (rms * math.sqrt(2)))


def make_sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "n_ctx d_model"]:
    """Sines in the first half of the columns, cosines in the second; wavelengths 2 pi to 20000 pi.

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.5.
    """
    n_waves = (d_model + 1) // 2
    frequencies = 10_000.0 ** (-torch.arange(n_waves, dtype=torch.float64) / n_waves)
    angles = torch.arange(n_ctx, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :d_model]


def _visible_keys(
    mask: Bool[Tensor, "batch total"] | None, input_ids: Int[Tensor, "batch pos"], past: int
) -> Bool[Tensor, "#batch 1 pos total"]:
    """Which keys each token may attend to: itself and earlier real ones."""
    total = past + input_ids.shape[1]
    columns = torch.arange(total, device=input_ids.device)
    causal = (columns[None] <= columns[past:, None])[None, None]
    return causal if mask is None else causal & mask[:, None, None]


AutoConfig.register(PlainConfig.model_type, PlainConfig, exist_ok=True)
AutoModelForCausalLM.register(PlainConfig, PlainTransformer, exist_ok=True)
