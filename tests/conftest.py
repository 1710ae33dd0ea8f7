"""Where there is no GPU, Triton's interpreter stands in for it, and GPU tests are skipped.

Triton decides between the two when it is imported, so the choice is made here, before any test
module is. What has to be compiled (``test_kernel_resources``) runs in a process of its own.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest


def has_cuda_device() -> bool:
    """Asked of the driver, so that collecting tests does not import torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


HAS_CUDA = has_cuda_device()
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not HAS_CUDA:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device: nothing to run it on"))


@pytest.fixture
def device() -> str:
    """Where kernels run: the GPU, or the CPU under the interpreter."""
    return "cuda" if HAS_CUDA else "cpu"


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory that torch hands out uninitialised holds NaN: whoever leaves a hole is found out."""
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
