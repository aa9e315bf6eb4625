"""A small explicit decoder transformer, for models no Hugging Face family can express.

Attention-only models, hand-written weights, a free ``d_head``, no norm, any of five activations:
the models this package trains or writes by hand are built from it. It is a Hugging Face model in
every respect (``AutoModelForCausalLM``, ``save_pretrained``, ``generate``), registered when this
module is imported, and it carries TransformerLens hook points under the names a
``TransformerBridge`` uses.
"""

from interp.models.plain.config import PlainConfig as PlainConfig
from interp.models.plain.model import PlainTransformer as PlainTransformer

__all__ = ["PlainConfig", "PlainTransformer"]
