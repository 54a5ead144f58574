"""Features of this processor and this build, for the choice of kernels at run time."""

cdef extern from "processor.h" nogil:
    bint has_avx2_and_fma()
    bint has_avx512()
    bint with_openmp "WITH_OPENMP"


def has(str name):
    """Whether kernels of this name ("baseline", "avx2", "avx512") run here."""
    if name == "avx2":
        return has_avx2_and_fma()
    if name == "avx512":
        return has_avx512()
    return name == "baseline"


def has_openmp():
    """Whether the kernels were compiled with OpenMP. This module is compiled with the same flags."""
    return with_openmp
