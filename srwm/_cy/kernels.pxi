"""All kernels for one instruction set, real type and layout. The name of the module says which."""

include "common.pxi"
include "calls.pxi"
include "srwm.pxi"
include "delta.pxi"
