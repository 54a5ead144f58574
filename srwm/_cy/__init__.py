"""The CPU backend: Cython kernels and what chooses among them."""
