"""Loading: from a bundled name, a folder, a hub id, or a model already in memory."""

from __future__ import annotations

import difflib
import hashlib
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import InterpError, ModelError, TokenizationError, suggest_names
from interp.models.bundled import bundled_names, bundled_path
from interp.models.families import FAMILIES, Family, family_of
from interp.models.families.base import is_added, named_parameters
from interp.models.files import check_folder
from interp.models.hook_check import refuse_dead_components
from interp.models.hook_points import InputPoint
from interp.models.model import Model


def load_model(
    source: str | Path | nn.Module | Model,
    tokenizer: Any = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    name: str | None = None,
    check_hooks: bool = True,
) -> Model:
    """Load a model to look into.

    ``source`` is a bundled name (``interp models`` lists them), a folder written by
    ``save_pretrained``, a hub id, or a loaded Hugging Face model, TransformerLens
    ``TransformerBridge`` or ``HookedTransformer``. A Hugging Face model in memory is wrapped in
    place: copy it first if you also need it bare. Without a tokenizer, token tensors still work.

    Weights are loaded in fp32 unless ``dtype`` says otherwise, from safetensors only, and the
    model comes in evaluation mode. ``check_hooks`` tests every hook point once and refuses those
    that do not act.

    Raises :class:`ModelError` for an unknown name or architecture, for weights that are missing or
    not finite and for options that change the logits when wrapped, :class:`DataFileError` for damaged
    or pickled files, and :class:`TokenizationError` for a tokenizer that gives no tokens.
    """
    if isinstance(source, Model):
        if any(option is not None for option in (tokenizer, device, dtype, revision, name)):
            raise ModelError(f"{source!r} is loaded already; its options were set when it was.")
        return source
    # weights are drawn before they are read or wrapped: that must not move the caller's random state
    with torch.random.fork_rng(devices=[]):
        model, dead = _load(source, tokenizer, device, dtype, revision, name, check_hooks)
    if dead:
        warnings.warn(f"{model.name}: hooks of {', '.join(dead)} do not act and are refused.", stacklevel=2)
    return model


def _load(
    source: str | Path | nn.Module,
    tokenizer: Any,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    revision: str | None,
    name: str | None,
    check_hooks: bool,
) -> tuple[Model, tuple[str, ...]]:
    """The model, and its components that do not act."""
    if isinstance(source, (str, Path)):
        module, found_tokenizer, label, revision = _load_files(
            str(source), dtype, revision, tokenizer is None
        )
        tokenizer = tokenizer if tokenizer is not None else found_tokenizer
        name = name or label
    elif not isinstance(source, nn.Module):
        raise ModelError(
            f"load_model takes a name, a folder or a loaded model; got {type(source).__name__}: {source!r}."
        )
    else:
        module = source
        if dtype is not None:
            module = module.to(dtype)
    if device is not None:
        module = module.to(device)
    if hasattr(tokenizer, "get_vocab"):
        _refuse_useless_tokenizer(tokenizer)
    model = _wrap(module, tokenizer, name, revision, check_hooks)
    _refuse_bad_weights(model)
    if check_hooks and model.bridge is not None:
        return model, tuple(refuse_dead_components(model))
    return model, ()


def _load_files(
    source: str, dtype: torch.dtype | None, revision: str | None, want_tokenizer: bool
) -> tuple[nn.Module, Any, str, str | None]:
    from transformers import AutoConfig, AutoModelForCausalLM

    import interp.models.plain  # noqa: F401  registers its architecture with transformers

    is_bundled = source in bundled_names()
    folder = bundled_path(source) if is_bundled else Path(source)
    local = folder.is_dir()
    if local:
        check_folder(folder)
    elif folder.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".safetensors") or folder.is_file():
        raise ModelError(
            f"{source!r} is a single file; expected a folder written by save_pretrained (config.json and safetensors)."
        )
    if not local and "/" not in source:
        _refuse_near_miss(source)
    place = str(folder) if local else source
    try:
        config = AutoConfig.from_pretrained(place, revision=revision)
        family_of((config.architectures or ["none named"])[0])
        loaded, info = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=dtype or torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            # told apart below, where transformers only points to its log
            ignore_mismatched_sizes=True,
        )
    except InterpError:
        raise
    except Exception as error:
        # a config with wrong values fails anywhere, in any way
        raise ModelError(_cannot_load(source, local, error)) from error
    _refuse_incomplete(source, config, info)
    tokenizer = _load_tokenizer(place, revision) if want_tokenizer else None
    digest = _digest_folder(folder) if local else (getattr(config, "_commit_hash", None) or revision)
    return loaded, tokenizer, source if is_bundled or not local else folder.name, digest


def _refuse_near_miss(source: str) -> None:
    """A misspelt bundled name is told at once, without asking the hub for it."""
    near = difflib.get_close_matches(source, bundled_names(), n=1, cutoff=0.8)
    if near:
        raise ModelError(
            f"no model {source!r}; did you mean {near[0]!r}? Bundled: {', '.join(bundled_names())}."
        )


def _cannot_load(source: str, local: bool, error: Exception) -> str:
    reason = _reason(error)
    if local:
        return f"cannot load the model in folder {source!r}: {reason}"
    known = bundled_names()
    return (
        f"no model {source!r}{suggest_names(source, known) or '.'} It is not a bundled name ({', '.join(known)}), not "
        f"a folder, and loading it from the hub failed: {reason}"
    )


def _reason(error: Exception) -> str:
    """The first line of an error; a bare KeyError or AssertionError says little without its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines and isinstance(error, (OSError, ValueError)) else repr(error)


def _refuse_incomplete(source: str, config: Any, info: dict[str, Any]) -> None:
    missing = sorted(info.get("missing_keys", ()))
    wrong = sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing or wrong:
        what = (
            f"{len(missing)} weights are missing" if missing else f"{len(wrong)} weights have another shape"
        )
        raise ModelError(
            f"{source!r}: {what}, e.g. {(missing or wrong)[0]}; they would be random. The file does not fit its config."
        )
    unused = sorted(info.get("unexpected_keys", ()))
    depths = (re.search(r"\.(\d+)\.", key) for key in unused)
    if any(depth and int(depth[1]) >= config.num_hidden_layers for depth in depths):
        raise ModelError(
            f"{source!r} holds more layers than the {config.num_hidden_layers} of its config, e.g. {unused[-1]}; "
            "they would be left out. The file does not fit its config."
        )


def _load_tokenizer(place: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
        _refuse_useless_tokenizer(tokenizer)
        return tokenizer
    except Exception as error:
        reason = str(error) if isinstance(error, InterpError) else _reason(error)
        warnings.warn(
            f"no tokenizer was loaded from {place!r} ({reason}); token tensors still work.", stacklevel=4
        )
        return None


def _refuse_useless_tokenizer(tokenizer: Any) -> None:
    """Transformers makes a tokenizer of special tokens alone where the files are missing."""
    special = set(tokenizer.all_special_ids)
    ordinary = sorted(set(tokenizer.get_vocab().values()) - special)[:100]
    texts = [tokenizer.decode([token]) for token in ordinary]
    if not any(tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts if text):
        raise TokenizationError(
            f"the tokenizer ({type(tokenizer).__name__}, {len(tokenizer)} tokens) turns every text into no tokens; "
            "it is not usable. Check that its files are complete."
        )


def _digest_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _wrap(module: Any, tokenizer: Any, name: str | None, revision: str | None, check: bool) -> Model:
    """Find the family, put hook points in where the architecture has none, make the shell."""
    kind = type(module).__name__
    bridge: Any = None
    if kind == "TransformerBridge":
        bridge = module
        _refuse_processed(bridge)
        module = bridge.original_model
        tokenizer = tokenizer if tokenizer is not None else bridge.tokenizer
    elif kind == "HookedTransformer":
        tokenizer = tokenizer if tokenizer is not None else getattr(module, "tokenizer", None)
        return _hooked_transformer(module, tokenizer, name)
    config = getattr(module, "config", None)
    family = family_of(type(module).__name__)
    traits = family.read_traits(config)
    module.eval()
    if family is FAMILIES["plain"]:
        hook_points = _own_hook_points(module)
    else:
        module.set_attn_implementation("eager")
        bridge = bridge or _build_bridge(module, family, name, check)
        hook_points = bridge.hook_dict
        for parameter_name, parameter in module.named_parameters():
            if is_added(parameter_name):
                parameter.requires_grad_(False)
    label = name or getattr(config, "_name_or_path", "") or family.name
    return Model(
        module, hook_points, family, traits, named_parameters(module), tokenizer, label, revision, bridge
    )


def _refuse_processed(bridge: Any) -> None:
    if getattr(bridge, "_weights_processed", bridge.compatibility_mode):
        raise ModelError(
            "this TransformerBridge has processed weights (enable_compatibility_mode folds and centres them), so its "
            "activations are not the model's own. Boot it again and load it raw, or use no_processing=True."
        )


def _build_bridge(module: Any, family: Family, name: str | None, check: bool) -> Any:
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    if any(isinstance(part, GeneralizedComponent) for part in module.modules()):
        raise ModelError(
            f"this {type(module).__name__} is already wrapped by TransformerLens; use the model load_model "
            "returned the first time, pass the TransformerBridge itself, or load a fresh copy."
        )
    bare = _few_logits(module) if check else None
    try:
        bridge = build_bridge_from_module(
            module,
            family.architectures[0],
            hf_config=module.config,
            # it would look a tokenizer up by name, on the hub if need be; the shell has the one given
            tokenizer=None,
            device=str(next(module.parameters()).device),
            model_name=name or family.name,
        )
    except Exception as error:
        raise ModelError(f"TransformerLens cannot wrap this {type(module).__name__}: {error!r}") from error
    if bare is not None:
        _refuse_other_logits(bare, _few_logits(module))
    return bridge


@torch.no_grad()
def _few_logits(module: Any) -> Tensor:
    n = min(8, module.config.max_position_embeddings, module.config.vocab_size)
    tokens = torch.arange(n, device=next(module.parameters()).device)[None]
    return module(input_ids=tokens, use_cache=False).logits.double()


def _refuse_other_logits(bare: Tensor, wrapped: Tensor) -> None:
    """TransformerLens does not know every option of every architecture."""
    difference, size = float((wrapped - bare).abs().max()), float(bare.abs().max())
    # an option that is not followed changes everything; half-precision rounding changes little
    if difference > 0.05 * size:
        raise ModelError(
            f"wrapped by TransformerLens, this model's logits change by {difference:.3g} (their size is {size:.3g}): "
            "its config has an option that is not supported."
        )


def _own_hook_points(module: nn.Module) -> dict[str, nn.Module]:
    from transformer_lens.hook_points import HookPoint

    return {name: part for name, part in module.named_modules() if isinstance(part, HookPoint)}


def _hooked_transformer(module: Any, tokenizer: Any, name: str | None) -> Model:
    family = FAMILIES["hooked_transformer"]
    module.eval()
    # its own hook points stand before the norm, or before the norm's weights
    mlp_inputs = {
        f"blocks.{layer}.mlp.hook_in": InputPoint(block.mlp)
        for layer, block in enumerate(module.blocks)
        if hasattr(block, "mlp")
    }
    return Model(
        module,
        {**module.hook_dict, **mlp_inputs},
        family,
        family.read_traits(module.cfg),
        named_parameters(module),
        tokenizer,
        name or module.cfg.model_name or "hooked-transformer",
        prepend_bos=None if tokenizer is None else bool(module.cfg.default_prepend_bos),
    )


def _refuse_bad_weights(model: Model) -> None:
    for name, parameter in named_parameters(model.module).items():
        if not bool(torch.isfinite(parameter).all()):
            bad = int((~torch.isfinite(parameter)).sum())
            raise ModelError(
                f"weights of {model.name!r} are not finite: {bad} entries of {name} are NaN or infinite. "
                "The file is damaged or training diverged."
            )
