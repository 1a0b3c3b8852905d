"""Processes that train keep the memory that they free."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import resource, sys
from fl_server.simulation import heap
if sys.argv[1] == "keep":
    heap.keep()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(min(faults() for _ in range(3)))
"""


def faults(how: str) -> int:
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", CODE, how]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


def test_a_buffer_of_the_size_of_the_last_one_needs_no_new_pages():
    assert faults("give") > 1000
    assert faults("keep") < 100
