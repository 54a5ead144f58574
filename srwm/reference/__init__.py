"""Readable definitions of the operators: numbered steps over an array namespace. Tests compare with them.

Letters and shapes used in the whole package:

    ...     leading axes: batch, heads, anything; those of all operands broadcast
    L       steps of a sequence; t, one of them
    D, Do   entries of the input (query, key) and of the output (value) of a step
    M       columns of a packed matrix

Vectors are rows. The Cython and the CUDA text use the same step numbers. Each operator has a file with one
step and its gradient; `loop` loops over the steps.
"""
