"""Peak memory of a stretch of code.

On a GPU the allocator knows it. On the CPU the process's resident pages are read every 2 ms,
anonymous ones (allocations) apart from file pages (the mapped adapter file: the kernel takes
those back when it needs room, so they are no demand on memory).
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
INTERVAL_S = 0.002
MALLOPT_MMAP_THRESHOLD, THRESHOLD_BYTES = -3, 1 << 20


def read_resident() -> tuple[int, int]:
    """Resident bytes of this process: anonymous, and of mapped files."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    anonymous, files = (int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, files


class PeakMemory:
    """Context manager; afterwards the bytes at the peak, above those at the start.

    Attributes:
        anonymous: of the CPU's allocations, or of the GPU's allocator.
        files: of mapped files (CPU only).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.anonymous = self.files = 0
        self._stop = threading.Event()

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device), 0
        else:
            # glibc would otherwise keep freed blocks of up to 32 MB, which is no demand either.
            ctypes.CDLL(None).mallopt(MALLOPT_MMAP_THRESHOLD, THRESHOLD_BYTES)
            self._start = read_resident()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.anonymous = torch.cuda.max_memory_allocated(self.device) - self._start[0]
        else:
            self._stop.set()
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            anonymous, files = read_resident()
            self.anonymous = max(self.anonymous, anonymous - self._start[0])
            self.files = max(self.files, files - self._start[1])
