"""Makes a virtual machine's memory as good as a real one's.

Hosts take back what a guest has freed, and the next touch of such a page then costs the guest several times an
ordinary page fault. Readers that need fresh memory in one run (a cache's files) and not in the next would be measured
by chance. So before a timed read as much memory as it may need is touched and freed again, for every reader alike."""

from __future__ import annotations

import mmap

_PAGE = mmap.PAGESIZE


def touch(size: int) -> None:
    """Touches `size` bytes of memory, at most half of what is available, and frees them."""
    size = min(size, _available() // 2) // _PAGE * _PAGE
    if size > 0:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            for start in range(0, size, _PAGE):
                memory[start] = 1


def _available() -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
