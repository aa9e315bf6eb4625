"""How latents fire: one small file a rule."""

from interp.coders.config import CoderConfig
from interp.coders.encoders.base import DecoderView as DecoderView
from interp.coders.encoders.base import Encoder as Encoder
from interp.coders.encoders.base import Fired as Fired
from interp.coders.encoders.base import StepState as StepState
from interp.coders.encoders.batch_topk import BatchTopKEncoder as BatchTopKEncoder
from interp.coders.encoders.gated import GatedEncoder as GatedEncoder
from interp.coders.encoders.gradient import GradientEncoder as GradientEncoder
from interp.coders.encoders.gradient import measure_preselection as measure_preselection
from interp.coders.encoders.jumprelu import JumpReLUEncoder as JumpReLUEncoder
from interp.coders.encoders.standard import StandardEncoder as StandardEncoder
from interp.coders.encoders.topk import TopKEncoder as TopKEncoder

ENCODERS: dict[str, type[Encoder]] = {
    encoder.name: encoder
    for encoder in (
        StandardEncoder,
        GatedEncoder,
        TopKEncoder,
        BatchTopKEncoder,
        JumpReLUEncoder,
        GradientEncoder,
    )
}
"""Every rule by its name."""


def make_encoder(d_in: int, config: CoderConfig) -> Encoder:
    """The encoder that a config asks for, with zero weights."""
    name = "batch-topk" if config.firing == "matryoshka" else config.firing
    return ENCODERS[name](d_in, config)
