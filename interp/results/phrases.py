"""Methods and patches in words, as titles and reports name them."""

from __future__ import annotations

from interp.results.provenance import Provenance

_METHODS = {
    "exact": "exact patching",
    "path": "path patching",
    "attribution": "attribution patching",
    "attribution*": "AtP*",
    "ig": "integrated gradients over inputs",
    "ig:activation": "integrated gradients over activations",
    "relevance": "relevance patching (RelP)",
}
_RUN_EVERY_PATCH = (None, "exact", "path")
_INTO = {"denoise": ("clean", "corrupted"), "noise": ("corrupted", "clean")}
_REPLACEMENTS = {"zero": "zeros", "mean": "mean activations", "mean-per-position": "mean activations by position",
                 "resample": "other prompts' activations"}  # fmt: skip


def name_method(label: str | None) -> str:
    """A method's label in words; an unknown label stays as it is.

    >>> name_method("attribution"), name_method("relevance:relp-ah"), name_method("mine")
    ('attribution patching', 'relevance patching (relp-ah)', 'mine')
    """
    label = label or "exact"
    kind, _, rules = label.partition(":")
    if kind == "relevance" and rules:
        return f"relevance patching ({rules})"
    return _METHODS.get(label, label)


def is_estimate(made: Provenance) -> bool:
    """Whether scores were estimated, so that no patch stands behind them."""
    return made.method not in _RUN_EVERY_PATCH


def name_patch(made: Provenance) -> tuple[str, str]:
    """What a patch puts in, and the run it goes into.

    >>> name_patch(Provenance("gpt2", direction="noise"))
    ('corrupted activations', 'clean')
    """
    source, base = _INTO[made.direction or "denoise"]
    return _REPLACEMENTS.get(made.ablation or "source", f"{source} activations"), base


def describe_patch(made: Provenance) -> str:
    """What was done, or what an estimate is of.

    >>> describe_patch(Provenance("gpt2", direction="denoise", method="exact"))
    'clean activations patched into the corrupted run'
    >>> describe_patch(Provenance("gpt2", direction="denoise", method="attribution"))
    'estimated effect of patching clean activations into the corrupted run'
    """
    what, base = name_patch(made)
    if is_estimate(made):
        return f"estimated effect of patching {what} into the {base} run"
    return f"{what} patched into the {base} run"


def capitalize(text: str) -> str:
    """``text`` with a large first letter, for the beginning of a title.

    >>> capitalize("AtP* of z")
    'AtP* of z'
    """
    return text[:1].upper() + text[1:]
