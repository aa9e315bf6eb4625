"""One training step of a sparse coder without a dense product after the encoder.

Forward, the encoder's pre-activations are dense and lose their gradient; a few entries are chosen, and from
there everything is (row, latent, value): the decoder, both weight gradients, firing statistics. Both weight
gradients share one sort. Measured by ``interp bench coder-step``; the kernels, which its folders describe, by ``interp
bench kernels``. Ideas: Gao et al. 2024, arXiv 2406.04093 (sparse kernels for top-k).

On a GPU nothing waits for the host but :func:`select_above`, whose number of entries only the device knows, and rules
that ask whether any latent is dead.

Known shortcomings: without kernels entries are sorted on one core; below some thousand rows, or with hundreds of
latents a row, dense products win (:attr:`SparseLatents.sparse_pays` says when they are used instead). Pre-activations
are written to memory and read once more: choosing is not fused into the encoder's product.
"""

from interp.kernels.coder_step.activate import count_above as count_above
from interp.kernels.coder_step.activate import jump_relu as jump_relu
from interp.kernels.coder_step.decode import sparse_decode as sparse_decode
from interp.kernels.coder_step.encode import Workspace as Workspace
from interp.kernels.coder_step.encode import add_by_latent as add_by_latent
from interp.kernels.coder_step.encode import attach_encoder as attach_encoder
from interp.kernels.coder_step.encode import dot_entries as dot_entries
from interp.kernels.coder_step.encode import pre_activations as pre_activations
from interp.kernels.coder_step.encode import sum_by_latent as sum_by_latent
from interp.kernels.coder_step.encode import sum_by_row as sum_by_row
from interp.kernels.coder_step.encode import take_by_latent as take_by_latent
from interp.kernels.coder_step.latents import ByLatent as ByLatent
from interp.kernels.coder_step.latents import SparseLatents as SparseLatents
from interp.kernels.coder_step.latents import kernels_run as kernels_run
from interp.kernels.coder_step.select import select_above as select_above
from interp.kernels.coder_step.select import select_top as select_top
from interp.kernels.coder_step.select import select_top_of_all as select_top_of_all
