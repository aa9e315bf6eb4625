"""Fused GPU kernels in Triton, each beside the plain PyTorch that is the truth it is tested against.

Every operation is a folder: ``reference`` says in PyTorch what it computes, ``triton`` computes it on a GPU,
``ops`` makes that known to autograd and ``torch.compile``, and the function which the folder exports chooses
between them. The reference runs on a CPU, without Triton, and for dtypes or shapes that a kernel does not cover;
:func:`use_kernels` overrides the choice. Nothing here knows models or prompts: the rooms above hand over tensors.

Measured by ``interp bench kernels``. Kernels add up in fp32 whatever they read, and never with float atomics:
within a process equal inputs give equal bits (another may tune itself to tiles that add up in another order).
"""

from interp.kernels.backend import KernelFallbackWarning as KernelFallbackWarning
from interp.kernels.backend import kernel_runs as kernel_runs
from interp.kernels.backend import use_kernels as use_kernels
