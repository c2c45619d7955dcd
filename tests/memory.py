"""Memory of a process, for tests that start one."""

import re
from pathlib import Path


def peak_kib() -> int:
    """Most memory that this process has had, KiB.

    Not `ru_maxrss`, which begins with what the process had that started this one.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])
