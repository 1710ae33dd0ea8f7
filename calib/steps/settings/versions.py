"""A version of CUDA as a user gives it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from calib.hardware.versions import cuda_version


def _cuda(value: Any) -> str:
    """No number, in which 12.1 and 12.10 are one: of a command line
    :func:`calib.steps.manners.texts.quoted` makes a text."""
    if not isinstance(value, str):
        raise ValueError
    cuda_version(value)
    return value


Cuda = Annotated[str, BeforeValidator(_cuda)]
