"""Sites by the hook names that SAELens writes, and back."""

from __future__ import annotations

import re

from interp.errors import SiteError
from interp.types import HEAD_COMPONENTS, Site, parse_site

_HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_in": "ln2.hook_normalized",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "result": "attn.hook_result",
    "mlp_pre": "mlp.hook_pre",
    "mlp_pre_linear": "mlp.hook_pre_linear",
    "mlp_post": "mlp.hook_post",
}
# mlp.hook_in is the bridge's name; hook_mlp_in is left out: it is the input of the norm in a
# HookedTransformer and its output in a bridge
_COMPONENTS = {hook: component for component, hook in _HOOKS.items()} | {"mlp.hook_in": "mlp_in"}
_NAME = re.compile(r"blocks\.(\d+)\.(.+)")


def find_site(hook_name: str, head: int | None = None) -> str | None:
    """The site that a TransformerLens hook name means; ``None`` where there is none for it.

    >>> find_site("blocks.2.hook_mlp_out"), find_site("blocks.1.attn.hook_z", head=3)
    ('mlp_out[2]', 'z[1.3]')
    """
    if hook_name == "hook_embed":
        return "embed"
    match = _NAME.fullmatch(hook_name)
    component = match and _COMPONENTS.get(match[2])
    if match is None or component is None or (head is not None and component not in HEAD_COMPONENTS):
        return None
    return str(Site(component, int(match[1]), head))


def find_hook(site: str) -> tuple[str, int | None]:
    """Hook name and head of a site; the text itself where no hook is named for it.

    >>> find_hook("z[1.3]")
    ('blocks.1.attn.hook_z', 3)
    """
    try:
        found = parse_site(site)
    except SiteError:
        return site, None
    if found.component == "embed":
        return "hook_embed", None
    if found.layer is None or found.component not in _HOOKS or str(found) != str(_bare(found)):
        return site, None
    return f"blocks.{found.layer}.{_HOOKS[found.component]}", found.head


def _bare(site: Site) -> Site:
    return Site(site.component, site.layer, site.head)
