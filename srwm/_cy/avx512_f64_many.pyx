include "common.pxi"
include "kernels.pxi"
include "delta.pxi"
