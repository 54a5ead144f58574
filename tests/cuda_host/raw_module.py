"""`cupy.RawModule` on NumPy arrays: the same text and the same call, compiled by g++ and run on the CPU."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
ORDERS = ("forward", "reverse", "random")

# How each mode is compiled. In "plain" the kernel is a shared object in this process; in the others it
# is a program, since a sanitizer must be there before Python's own allocations are. Small sizes run so
# shortly that compilers are the cost: under the sanitizers -O1 takes two to nine times as long as -O0.
FLAGS = {
    "plain": ("-O1", "-fPIC", "-shared", "-fvisibility=hidden"),
    "race": ("-O0", "-g", "-DCUDA_HOST_RACE", "-fsanitize=thread"),
    "bounds": (
        "-O0",
        "-g",
        "-DCUDA_HOST_BOUNDS",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
    ),
}
COMMON_FLAGS = ("-std=gnu++17", "-w", "-fno-strict-aliasing", "-ffp-contract=off")

# What a sanitizer's program is told, and how its report begins.
SANITIZER_OPTIONS = {
    "TSAN_OPTIONS": "exitcode=66:halt_on_error=1:report_signal_unsafe=0",
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:exitcode=67",
    "UBSAN_OPTIONS": "print_stacktrace=0:exitcode=67",
}


class CudaHostError(RuntimeError):
    """A kernel did what a device does not forgive: a barrier not reached by all, a wrong mask."""


class RaceError(CudaHostError):
    """Two threads came to one address with nothing that orders them."""


class BoundsError(CudaHostError):
    """An access beyond an array, or to an address that is not aligned to what is read."""


_SHARED = re.compile(r"(?P<extern>extern\s+)?__shared__\s+(?P<rest>[^;]+);")
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')


def _shared_declaration(match: re.Match[str]) -> str:
    """A __shared__ declaration as references into the runtime's memory, on as many lines."""
    text = re.sub(r"__align__\([^)]*\)", "", match["rest"])
    first, *others = (" ".join(part.split()) for part in re.split(r",(?![^\[]*\])", text))
    head = re.fullmatch(r"(?P<type>[\w:<> ]+?) (?P<declarator>\w+ ?(?:\[.*)?)", first)
    if head is None:
        raise CudaHostError(f"cannot read the declaration {match[0]!r}; write __shared__ type name[size]")
    declared = []
    for declarator in (head["declarator"], *others):
        name, bracket, sizes = declarator.partition("[")
        name, dimensions = name.strip(), bracket + sizes
        if match["extern"]:
            size = "(size_t)cuda_host::dynamic_bytes"
            declared.append(
                f"{head['type']} *{name} = ({head['type']} *)cuda_host::shared(__COUNTER__, {size});"
            )
        else:
            declared.append(
                f"typedef {head['type']} {name}_shared {dimensions}; "
                f"auto &{name} = *({name}_shared *)cuda_host::shared(__COUNTER__, sizeof({name}_shared));"
            )
    return " ".join(declared) + "\n" * match[0].count("\n")


def host_text(code: str, kernels: list[str], mode: str) -> str:
    """The C++ text of a CUDA text."""
    if re.search(r"\basm\b", re.sub(r"#ifdef __CUDA_ARCH__.*?#endif", "", code, flags=re.DOTALL)):
        raise CudaHostError("inline PTX cannot run on a CPU; put it under #ifdef __CUDA_ARCH__")
    lines = ['#include "cuda_host.h"', '#line 1 "kernel.cu"', _SHARED.sub(_shared_declaration, code)]
    lines += [f"CUDA_HOST_KERNEL({kernel})" for kernel in kernels]
    if mode != "plain":
        lines += ['#include "program.h"', "int main(int argc, char **argv) {"]
        lines += [f"    return cuda_host::program(argc, argv, {kernels[0]}_launch);", "}"]
    return "\n".join(lines) + "\n"


def compiler() -> str:
    """The C++ compiler: CXX of the environment, or g++."""
    return os.environ.get("CXX", "g++")


@cache
def _compiler_version(name: str) -> str:
    return subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout


@cache
def _runtime_text() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(HERE.rglob("*.h")))


def cache_folder() -> Path:
    """Where what was compiled is kept."""
    base = os.environ.get("SRWM_CUDA_HOST_CACHE")
    folder = Path(base) if base else Path(tempfile.gettempdir()) / f"srwm_cuda_host_{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def _built(code: str, kernels: tuple[str, ...], options: tuple[str, ...], mode: str) -> Path:
    """The compiled kernels; compiled once for each text, options, runtime and compiler."""
    text = host_text(code, list(kernels), mode)
    flags = (*COMMON_FLAGS, *FLAGS[mode], *(option for option in options if option.startswith("-D")))
    key = hashlib.sha256(
        "\0".join((text, _runtime_text(), _compiler_version(compiler()), *flags)).encode()
    ).hexdigest()[:32]
    built = cache_folder() / f"{kernels[0]}_{mode}_{key}.so"
    if built.exists():
        return built
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        source, output = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        source.write_text(text, encoding="utf-8")
        command = [compiler(), *flags, f"-I{HERE}", f"-I{HERE / 'include'}", str(source), "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CudaHostError(f"{' '.join(command)}\n{done.stderr}")
        output.replace(built)  # at once: another process may want it too
    return built


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_longlong),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_uint),
    )


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_longlong) for name in ("syncthreads", "syncwarp", "shuffle", "ballot"))


def _three(dimensions: tuple[int, ...]) -> tuple[int, ...]:
    return (*dimensions, *(1,) * (3 - len(dimensions)))


class Memory(NamedTuple):
    """An argument that is an address, and the bytes from there on that a kernel may come to."""

    address: int
    nbytes: int
    writeable: bool = True

    @classmethod
    def of(cls, a: np.ndarray) -> Memory:
        """The memory that a view reaches."""
        low, high = np.lib.array_utils.byte_bounds(a)
        if low != a.ctypes.data and a.size:
            raise CudaHostError("an array with a negative stride cannot be sent")
        return cls(a.ctypes.data, high - low if a.size else 0, a.flags.writeable)


def _by_value(argument: Any) -> bytes | None:
    """The bytes of an argument passed by value, structs and their bytes among them; None for memory."""
    if argument is None:
        return bytes(8)
    if isinstance(argument, Memory) or (
        isinstance(argument, np.ndarray) and argument.dtype.type is not np.void
    ):
        return None
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, (np.ndarray, np.generic)):
        return argument.tobytes()
    if isinstance(argument, bool):
        return struct.pack("?", argument)
    if isinstance(argument, int):
        return struct.pack("q", argument)
    if isinstance(argument, float):
        return struct.pack("d", argument)
    raise CudaHostError(f"expected an array, a number or None as a kernel's argument, got {type(argument)}")


def _address(argument: Any) -> int:
    """Of an array or of memory."""
    return argument.address if isinstance(argument, Memory) else int(argument.ctypes.data)


@cache
def _loaded(built: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(built))


def parameters(code: str, name: str) -> list[str]:
    """The declarations of a kernel's parameters."""
    found = re.search(rf"\b{name}\(([^)]*)\)\s*\{{", code)
    if found is None:
        raise CudaHostError(f"cannot find the parameters of {name}; write {name}(...) {{")
    return found[1].split(",")


class Kernel:
    """A kernel, called as CuPy's: ``kernel(grid, block, args, shared_mem=0)``."""

    def __init__(self, module: RawModule, name: str) -> None:
        self.name = name
        # Of each parameter whether it is an address, and not a value.
        self.takes_addresses = ["*" in parameter for parameter in parameters(module.code, name)]
        self._module = module
        built = _built(
            module.code, (name,) if module.mode != "plain" else module.kernels, module.options, module.mode
        )
        self._built = built
        # Barriers and collectives of the last launch, each counted once for all its threads.
        self.counts: dict[str, int] = {}
        if module.mode == "plain":
            library = _loaded(built)
            self._launch = getattr(library, f"{name}_launch")
            self._launch.restype = ctypes.c_char_p
            sizes = getattr(library, f"{name}_sizes")
            sizes.restype = ctypes.POINTER(ctypes.c_longlong)
            self.sizes = sizes()[: getattr(library, f"{name}_arguments")()]
            self._counts = getattr(library, f"{name}_counts")
            self._counts.restype = ctypes.POINTER(_Counts)

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        """Run the grid; raises CudaHostError, or one of its kinds."""
        launch = _Launch(
            _three(grid), _three(block), shared_mem, ORDERS.index(self._module.order), self._module.seed
        )
        values = [_by_value(argument) for argument in args]
        if self._module.mode == "plain":
            self._run_here(launch, args, values)
        else:
            self._run_program(launch, args, values)

    def _run_here(self, launch: _Launch, args: tuple[Any, ...], values: list[bytes | None]) -> None:
        if len(args) != len(self.sizes):
            raise CudaHostError(f"{self.name}: expected {len(self.sizes)} arguments, got {len(args)}")
        buffers = []
        for i, (argument, value, size) in enumerate(zip(args, values, self.sizes, strict=True)):
            held = struct.pack("P", _address(argument)) if value is None else value
            if len(held) != size:
                raise CudaHostError(f"{self.name}: argument {i}: expected {size} bytes, got {len(held)}")
            buffers.append(ctypes.create_string_buffer(held, len(held)))
        pointers = (ctypes.c_void_p * len(buffers))(*(ctypes.addressof(buffer) for buffer in buffers))
        wrong = self._launch(pointers, ctypes.byref(launch))
        if wrong is not None:
            raise CudaHostError(f"{self.name}: {wrong.decode()}")
        counts = self._counts().contents
        self.counts = {name: getattr(counts, name) for name, _ in _Counts._fields_}

    def _run_program(self, launch: _Launch, args: tuple[Any, ...], values: list[bytes | None]) -> None:
        """Arrays go out as the memory that they span, each by itself, and come back the same way."""
        with tempfile.TemporaryDirectory() as folder:
            sent, received = Path(folder, "launch.bin"), Path(folder, "results.bin")
            spans = []
            with sent.open("wb") as file:
                file.write(bytes(launch) + struct.pack("q", len(args)))
                for argument, value in zip(args, values, strict=True):
                    if value is None:
                        sent_of = argument if isinstance(argument, Memory) else Memory.of(argument)
                        address, size, _ = sent_of
                        file.write(struct.pack("qq", 1, size) + ctypes.string_at(address, size))
                        spans.append(sent_of)
                    else:
                        file.write(struct.pack("qq", 0, len(value)) + value)
            done = subprocess.run(
                [str(self._built), str(sent), str(received)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **SANITIZER_OPTIONS},
            )
            if done.returncode != 0:
                raise _failure(self.name, done)
            data = received.read_bytes()
        at = 0
        for address, size, writeable in spans:
            if writeable:
                ctypes.memmove(address, data[at : at + size], size)
            at += size


def _failure(name: str, done: subprocess.CompletedProcess[str]) -> CudaHostError:
    """What a sanitizer's program died of."""
    text = f"{name}: exit status {done.returncode}\n{done.stderr[-6000:]}"
    if "WARNING: ThreadSanitizer: data race" in done.stderr:
        return RaceError(text)
    if "ERROR: AddressSanitizer" in done.stderr or "runtime error:" in done.stderr:
        return BoundsError(text)
    return CudaHostError(text)


class RawModule:
    """A CUDA text and its kernels; `options` as for NVRTC, of which only the definitions matter here.

    mode: "plain" runs fast; "race" runs under ThreadSanitizer, "bounds" under AddressSanitizer and
    UndefinedBehaviorSanitizer. order: which thread and which block goes on first.
    """

    def __init__(
        self,
        *,
        code: str,
        options: tuple[str, ...] = (),
        mode: str = "plain",
        order: str = "forward",
        seed: int = 0,
    ) -> None:
        if mode not in FLAGS or order not in ORDERS:
            raise ValueError(
                f"expected a mode of {tuple(FLAGS)} and an order of {ORDERS}, got {mode!r}, {order!r}"
            )
        self.code, self.options, self.mode, self.order, self.seed = code, tuple(options), mode, order, seed
        self.kernels = tuple(_KERNEL.findall(code))

    def get_function(self, name: str) -> Kernel:
        """The kernel of that name."""
        if name not in self.kernels:
            raise CudaHostError(f"expected one of the kernels {self.kernels}, got {name!r}")
        return Kernel(self, name)
