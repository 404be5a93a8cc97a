"""Warnings that libraries print when they are imported, about things that training never does.

Each is left out by its logger and its first words, with the reason; every other warning is shown.
"""

from __future__ import annotations

import logging

_NOT_OURS = (
    # 4-bit matrix products on the CPU; the base is 8 bits wide at least.
    ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),
    # Checkpoints that were pickled with torchao's tensors; the base is quantised after it is read.
    ("diffusers.quantizers.torchao.torchao_quantizer", "Unable to import `torchao` Tensor objects"),
    # A CUDA compiler without a GPU; nothing is compiled for one.
    ("torch.utils.cpp_extension", "No CUDA runtime is found"),
)


def silence_import_warnings() -> None:
    """Leave these warnings out from now on."""
    for logger, start in _NOT_OURS:
        logging.getLogger(logger).addFilter(_Without(start))


class _Without(logging.Filter):
    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        return not str(record.msg).startswith(self.start)
