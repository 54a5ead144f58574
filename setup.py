"""The extension modules; everything else about the package is in pyproject.toml.

srwm/_cy/kernels.pxi is compiled once per instruction set, real type and layout (one
sequence at a time, or many side by side: lanes.h); srwm/_cy/backend.py picks when they are first used. No
-march=native: the modules run wherever their instruction set does. launch.pyx configures the CUDA kernels,
cuda.pyx calls them; CuPy compiles them when they are first used.

SRWM_BOUNDS_CHECKED=1 checks every index of the kernels; SRWM_BUILD_INSTRUCTION_SETS names the instruction
sets to build, separated by commas, instead of all that this architecture has.
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
from setuptools.errors import CompileError, LinkError, PlatformError

CY = Path("srwm", "_cy")
X86_FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}
MSVC_X86_FLAGS = {"avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]}
# Windows aligns stacks to 16 bytes only, which GCC does not heed when it stores wider registers there: its
# assembler, from binutils 2.38 on, can make such stores unaligned ones.
MINGW_FLAGS = ["-Wa,-muse-unaligned-vector-move"]
REAL_TYPES = {"f32": [], "f64": [("SRWM_DOUBLE", "1")]}
LAYOUTS = {"one": [], "many": [("SRWM_MANY", "1")]}

EMPTY = "int main(void) { return 0; }\n"
USES_OPENMP = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"

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
        ("cpu", []),
        ("run", []),
        ("host", []),
        ("ordinary", []),
        ("launch", ["growth_limits.h"]),
        ("cuda", []),
    ):
        yield Extension(
            f"srwm._cy.{name}",
            [str(CY / f"{name}.pyx")],
            depends=["setup.py", *(str(CY / header) for header in headers)],
            include_dirs=[str(CY)],
        )
    sources = ["setup.py"]  # the flags are here
    sources += [str(path) for pattern in ("*.pxi", "*.h") for path in sorted(CY.glob(pattern))]
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    all_sets = ["baseline", *(X86_FLAGS if is_x86 else ())]
    wanted = os.environ.get("SRWM_BUILD_INSTRUCTION_SETS") or ",".join(all_sets)
    for instruction_set in wanted.split(","):
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
        self.require_compiler()
        self.cythonize()
        kind = self.compiler.compiler_type
        flags = MSVC_X86_FLAGS if kind == "msvc" else X86_FLAGS
        # Without debug information, which would be five sixths of what is installed.
        optimised = ["/O2"] if kind == "msvc" else ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
        if kind == "mingw32" and self.builds(EMPTY, MINGW_FLAGS, []):
            optimised += MINGW_FLAGS
        openmp = next((f for f in self.openmp_flags(kind) if self.builds(USES_OPENMP, *f)), ([], []))
        for extension in self.extensions:
            instruction_set = extension.name.rsplit(".", 1)[1].split("_")[0]
            extension.extra_compile_args = optimised + flags.get(instruction_set, []) + openmp[0]
            extension.extra_link_args = openmp[1]
        super().build_extensions()

    def require_compiler(self):
        """Stop before all else unless C compiles, and what includes Python.h."""
        for program, missing, debian, fedora in (
            (EMPTY, "a C compiler, and none works", "gcc", "gcc"),
            ("#include <Python.h>\n", "Python.h, and none is found", "python3-dev", "python3-devel"),
        ):
            try:
                self.try_out(program)
            except (CompileError, PlatformError) as reason:
                raise PlatformError(
                    f"srwm's kernels need {missing} ({reason}); install it (Debian: apt-get install "
                    f"{debian}, Fedora: dnf install {fedora}, macOS: xcode-select --install, Windows: "
                    "Visual Studio's build tools), or name another compiler in the variable CC"
                ) from None

    def cythonize(self):
        """Translate the modules to C: here, so that nothing waits for it that needs no C."""
        translated = cythonize(self.extensions, compiler_directives=DIRECTIVES)
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]

    @staticmethod
    def openmp_flags(kind):
        """(compile, link) flags to try, in order."""
        if kind == "msvc":
            return [(["/openmp"], [])]
        if sys.platform == "darwin":
            return [(["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
        return [(["-fopenmp"], ["-fopenmp"])]

    def builds(self, program, compile_flags, link_flags):
        """Whether a program builds with these flags."""
        try:
            self.try_out(program, compile_flags, link_flags)
        except (CompileError, LinkError):
            return False
        return True

    def try_out(self, program, compile_flags=(), link_flags=None):
        """Compile a program, and link it where there are flags for that, to nowhere."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(program)
            objects = self.compiler.compile(
                [str(source)],
                output_dir=folder,
                include_dirs=self.include_dirs,
                extra_postargs=list(compile_flags),
            )
            if link_flags is not None:
                self.compiler.link_executable(
                    objects, "probe", output_dir=folder, extra_postargs=link_flags
                )


setup(ext_modules=list(extensions()), cmdclass={"build_ext": BuildKernels})
