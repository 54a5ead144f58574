"""All kernels of one instruction set, real type and layout: one module, whose name says which."""

include "common.pxi"
include "calls.pxi"
include "srwm.pxi"
include "delta.pxi"
