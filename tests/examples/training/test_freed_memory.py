import platform
import resource
import subprocess
import sys

import pytest

# Page faults of ten allocations of 64 MiB, each freed before the next, after some that make room.
FAULTS = """
import resource
import torch
from examples.training.freed_memory import keep_freed_memory

{first}
for _ in range(10):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(first):
    program = [sys.executable, "-c", FAULTS.format(first=first)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_what_was_freed_is_written_again_without_page_faults():
    pages = 10 * (1 << 26) // resource.getpagesize()
    assert faults("") > 0.9 * pages
    assert faults("keep_freed_memory()") < 0.1 * pages
