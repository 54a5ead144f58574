import platform
import resource
import subprocess
import sys

import pytest

# The page faults of twenty-one allocations of 64 MiB, each freed before the next, after some that make
# room. The middle one counts: a few take new room, where something small lies in the old.
FAULTS = """
import resource
from statistics import median

import torch
from examples.training.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{first}
for _ in range(10):
    faults()
print(int(median(faults() for _ in range(21))))
"""


def faults(first):
    program = [sys.executable, "-c", FAULTS.format(first=first)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_what_was_freed_is_written_again_without_page_faults():
    pages = (1 << 26) // resource.getpagesize()
    assert faults("") > 0.9 * pages
    assert faults("keep_freed_memory()") < 0.1 * pages
