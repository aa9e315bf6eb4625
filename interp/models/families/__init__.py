"""The architectures this package knows, one small file each."""

from __future__ import annotations

from interp.errors import ModelError
from interp.models.families.base import Family as Family
from interp.models.families.gpt2 import GPT2
from interp.models.families.gpt_neox import GPT_NEOX
from interp.models.families.hooked_transformer import HOOKED_TRANSFORMER
from interp.models.families.llama import GEMMA2, LLAMA, QWEN3
from interp.models.families.plain import PLAIN

FAMILIES: dict[str, Family] = {
    family.name: family for family in (GPT2, GPT_NEOX, LLAMA, GEMMA2, QWEN3, PLAIN, HOOKED_TRANSFORMER)
}


def family_of(architecture: str) -> Family:
    """The family of a Hugging Face class name.

    Raises :class:`ModelError` naming the supported ones for any other.
    """
    for family in FAMILIES.values():
        if architecture in family.architectures:
            return family
    known = ", ".join(name for family in FAMILIES.values() for name in family.architectures)
    raise ModelError(f"architecture {architecture!r} is not supported. Supported: {known}.")
