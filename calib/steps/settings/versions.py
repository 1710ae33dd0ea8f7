"""A version of CUDA as a user gives it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from calib.hardware.versions import cuda_version


def _cuda(value: Any) -> str:
    """A command line makes a number of 12.4."""
    text = repr(value) if isinstance(value, float) else value
    if not isinstance(text, str):
        raise ValueError
    cuda_version(text)
    return text


Cuda = Annotated[str, BeforeValidator(_cuda)]
