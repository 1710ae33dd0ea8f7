"""What lies between kernels, as operators: what they are called, and what their samples hold.

A sweep measures them like any other operator (``origin`` "host", seconds raw, one number a repeat)
and :mod:`calib.timeline` reads them. None of them computes or moves anything, so a fit has nothing
to learn from them.
"""

from __future__ import annotations

from model.ops import Other

ORIGIN = "host"
"""The ``origin`` of these samples."""
MODULE_CODE = Other("module code", dtype="int64")
"""Seconds that eager module code (``nn.Module.__call__``, views, a cache) adds to each launch."""
EAGER_OPERATOR = Other("eager_operator", dtype="int64")
"""Seconds of the host for one eager operator on a tiny tensor, while the device keeps up: Python,
the dispatcher, the allocation of the result and the launch."""
LAUNCH = Other("launch", dtype="int64")
"""The part of it that is the driver's: seconds of the host to enqueue one kernel and no more."""
DEPENDENT_GAP = Other("dependent_gap", dtype="int64")
"""Seconds of the device from one kernel of a queue to the next, where both do nothing and all of
them were enqueued before the first began: the shortest distance at which kernels can follow one
another in a stream. The time of any kernel in a queue is at least this."""
SYNC = Other("sync", dtype="int64")
"""Seconds of the host to read one number of an idle device (``Tensor.item``): a copy, and the wait
for it. What is still queued is waited for besides."""
GRAPH_NODE = Other("graph_node", dtype="int64")
"""As DEPENDENT_GAP, for the nodes of a CUDA graph that is replayed."""
GRAPH_LAUNCH = Other("graph_launch", dtype="int64")
"""Seconds of the host to launch a CUDA graph once, whatever it holds."""

_ALL = (MODULE_CODE, EAGER_OPERATOR, LAUNCH, DEPENDENT_GAP, SYNC, GRAPH_NODE, GRAPH_LAUNCH)
HOST_COSTS: dict[str, Other] = {op.name: op for op in _ALL}
"""Every one of them by the name under which it is stored."""
