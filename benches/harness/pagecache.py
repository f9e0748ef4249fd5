"""Takes files out of the page cache, and looks whether they are gone.

Only the files named, not all that the machine has cached: what else runs here shall not be measured either. Pages that
a process maps are not dropped by `posix_fadvise`, so a process that is named is first made to give them up, by
`process_madvise`, for which one has to be root unless it is this process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_PIDFD_OPEN, _PROCESS_MADVISE = 434, 440
_MADV_PAGEOUT = 21
_PAGE = mmap.PAGESIZE
# So many ranges may one call name.
_IOV_MAX = 1024

_libc = ctypes.CDLL(None, use_errno=True)


class StillCached(RuntimeError):
    """Files could not be taken out of the page cache."""


class _Range(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def drop(files: Sequence[Path], pids: Iterable[int] = (), most: float = 0.02) -> None:
    """Takes `files` out of the page cache, also where the processes `pids` map them.

    Fails when more than the share `most` of their bytes is still cached then.
    """
    for pid in pids:
        _page_out(pid, files)
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not on the disk yet is not dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    size, left = sum(f.stat().st_size for f in files), cached(files)
    if left > most * size:
        raise StillCached(f"{left / 1e6:,.0f} of {size / 1e6:,.0f} MB stay in the page cache: who else maps them?")


def cached(files: Iterable[Path]) -> int:
    """How many bytes of `files` are in the page cache."""
    return sum(_cached(file) for file in files)


def _cached(file: Path) -> int:
    size = file.stat().st_size
    if size == 0:
        return 0
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, prot=mmap.PROT_READ) as mapped:
        pages = np.zeros(-(-size // _PAGE), np.uint8)
        view = np.frombuffer(mapped, np.uint8)
        address = ctypes.c_void_p(view.ctypes.data)
        failed = _libc.mincore(address, ctypes.c_size_t(size), pages.ctypes.data_as(ctypes.c_void_p))
        del view
        if failed:
            raise OSError(ctypes.get_errno(), f"mincore of {file} failed")
    return int((pages & 1).sum()) * _PAGE


def _page_out(pid: int, files: Sequence[Path]) -> None:
    """Makes a process give up its pages of `files`. They stay mapped: the next touch reads them again."""
    ranges = mapped(Path(f"/proc/{pid}/maps").read_text(), {str(file.resolve()) for file in files})
    descriptor = _libc.syscall(_PIDFD_OPEN, pid, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_open of {pid} failed")
    try:
        for first in range(0, len(ranges), _IOV_MAX):
            _advise(descriptor, ranges[first : first + _IOV_MAX])
    finally:
        os.close(descriptor)


def _advise(process: int, ranges: list[tuple[int, int]]) -> None:
    """The kernel says how far it came."""
    while ranges:
        vector = (_Range * len(ranges))(*(_Range(start, end - start) for start, end in ranges))
        done = _libc.syscall(_PROCESS_MADVISE, process, vector, ctypes.c_size_t(len(ranges)), _MADV_PAGEOUT, 0)
        if done < 0:
            raise OSError(ctypes.get_errno(), "process_madvise failed; root may do it")
        if done == 0:
            return
        while ranges and done >= ranges[0][1] - ranges[0][0]:
            start, end = ranges.pop(0)
            done -= end - start
        if ranges and done:
            ranges[0] = (ranges[0][0] + done, ranges[0][1])


def mapped(maps: str, files: set[str]) -> list[tuple[int, int]]:
    """The ranges of addresses at which `maps`, a process's /proc/PID/maps, has one of `files`."""
    found = []
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in files:
            start, end = fields[0].split("-")
            found.append((int(start, 16), int(end, 16)))
    return found
