"""Where the rows of a coder come from: models over text, caches on disk, tensors; and their shuffling."""

from interp.coders.sources.buffer import BufferCount as BufferCount
from interp.coders.sources.buffer import ShuffleBuffer as ShuffleBuffer
from interp.coders.sources.cached import CachedActivations as CachedActivations
from interp.coders.sources.cached import CachedJointActivations as CachedJointActivations
from interp.coders.sources.cached import open_activations as open_activations
from interp.coders.sources.layout import ActivationSource as ActivationSource
from interp.coders.sources.layout import ChunkSource as ChunkSource
from interp.coders.sources.layout import JointSource as JointSource
from interp.coders.sources.layout import SourceLayout as SourceLayout
from interp.coders.sources.mixing import measure_mixing as measure_mixing
from interp.coders.sources.stream import ActivationStream as ActivationStream
from interp.coders.sources.stream import JointStream as JointStream
from interp.coders.sources.stream import stream_activations as stream_activations
from interp.coders.sources.tensors import Activations as Activations
from interp.coders.sources.tensors import as_source as as_source
from interp.coders.sources.tensors import tensor_activations as tensor_activations
from interp.coders.sources.write import cache_activations as cache_activations
