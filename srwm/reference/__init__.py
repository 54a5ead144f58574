"""The readable definitions of the operators: numbered steps over an array namespace, and the tests' oracle.

Letters and shapes used in the whole package:

    ...     leading axes: batch, heads, anything; those of all operands broadcast
    L       steps of a sequence; t, one of them
    D, Do   entries of the input (query, key) and of the output (value) of a step
    M       columns of a packed matrix

Vectors are rows. The same step numbers stand in the Cython and the CUDA text. One file for each operator
holds one step and its gradient; `loop` walks over the steps.
"""
