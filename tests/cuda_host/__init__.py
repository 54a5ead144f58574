"""CUDA text on a CPU: see README.md."""
