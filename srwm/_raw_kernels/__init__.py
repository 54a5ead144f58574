"""The CUDA backend: RawKernels."""
