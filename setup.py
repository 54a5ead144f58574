"""The extension modules; everything else about the package is in pyproject.toml.

srwm/_cy/kernels.pxi and delta.pxi are compiled once per instruction set, real type and layout (one
sequence at a time, or many side by side: lanes.h); srwm/_cy/backend.py picks when they are first used. No
-march=native: the modules run wherever their instruction set does. launch.pyx configures the CUDA kernels,
which are compiled when they are first used.
"""

import os
import platform
import sys
import tempfile
from itertools import product
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

CY = Path("srwm", "_cy")
X86_FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}
MSVC_X86_FLAGS = {"avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]}
REAL_TYPES = {"f32": [], "f64": [("SRWM_DOUBLE", "1")]}
LAYOUTS = {"one": [], "many": [("SRWM_MANY", "1")]}

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": os.environ.get("SRWM_BOUNDS_CHECKED") == "1",
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}


def extensions():
    """One per instruction set of this architecture, real type and layout, and what all of them use."""
    for name, headers in (
        ("processor", ["processor.h"]),
        ("recycled", ["pages.h"]),
        ("exchange", []),
        ("launch", []),
    ):
        yield Extension(
            f"srwm._cy.{name}",
            [str(CY / f"{name}.pyx")],
            depends=[str(CY / header) for header in headers],
            include_dirs=[str(CY)],
        )
    sources = [str(path) for pattern in ("*.pxi", "*.h") for path in sorted(CY.glob(pattern))]
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    for instruction_set in ("baseline", *(X86_FLAGS if is_x86 else ())):
        for (real_type, real_macros), (layout, layout_macros) in product(
            REAL_TYPES.items(), LAYOUTS.items()
        ):
            name = f"{instruction_set}_{real_type}_{layout}"
            yield Extension(
                f"srwm._cy.{name}",
                [str(CY / f"{name}.pyx")],
                depends=sources,
                include_dirs=[str(CY)],
                define_macros=real_macros + layout_macros,
            )


class BuildKernels(build_ext):
    """Adds the flags that this compiler has: its own optimisation and instruction-set flags, OpenMP."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self):
        is_msvc = self.compiler.compiler_type == "msvc"
        openmp = next((f for f in self.openmp_flags(is_msvc) if self.links_with(*f)), ([], []))
        for extension in self.extensions:
            instruction_set = extension.name.rsplit(".", 1)[1].split("_")[0]
            flags = MSVC_X86_FLAGS if is_msvc else X86_FLAGS
            extension.extra_compile_args = (
                (["/O2"] if is_msvc else ["-O3", "-fno-math-errno", "-fno-trapping-math"])
                + flags.get(instruction_set, [])
                + openmp[0]
            )
            extension.extra_link_args = openmp[1]
        super().build_extensions()

    @staticmethod
    def openmp_flags(is_msvc):
        """(compile, link) flags to try, in order."""
        if is_msvc:
            return [(["/openmp"], [])]
        if sys.platform == "darwin":
            return [(["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
        return [(["-fopenmp"], ["-fopenmp"])]

    def links_with(self, compile_flags, link_flags):
        """Whether a program that calls OpenMP builds with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=compile_flags
                )
                self.compiler.link_executable(
                    objects, "probe", output_dir=folder, extra_postargs=link_flags
                )
            except (CompileError, LinkError):
                return False
        return True


setup(
    ext_modules=cythonize(list(extensions()), compiler_directives=DIRECTIVES),
    cmdclass={"build_ext": BuildKernels},
)
