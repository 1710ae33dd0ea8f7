"""What picking, summing and normalising rows takes besides moving bytes, in cycles of a GPU.

Rows that are picked and are whole 16 bytes have a block for each 4096 bytes of each (``picks``);
any other, and a single one, are picked element by element, four of a thread: one after the other
where there is but one block (``turns``: 12 elements take 1.5, 500 and more take 3 microseconds).

A row that is summed is walked by the threads of a block, 16 bytes each at a time (``walk``): 32
threads where 16 rows share a block, more where there are fewer rows; of a long row the whole block,
of a longer one several blocks, while multiprocessors are idle (``setReduceConfig`` of torch). Rows
of a few numbers are one thread's (``few``). The moments of a channel are one block's, 512 threads
with a number each at a time (torch's ``batch_norm_collect_statistics_kernel``, and cuDNN's),
however long it is and however few the channels.

A softmax of up to 1024 columns is a warp's, its columns padded to a power of two (``padded``) and
held by 32 threads (``held``). Of more, a block's, of which a multiprocessor takes whole rows: kept
in registers (``wide``; more than four leave room for one block alone, ``lone``), else walked
(``walked``). Of those costs the first is an H200's. The others were read off what was published of
a B200, where 4096 rows of 4224 float32 columns take 90 microseconds, of 4096 take 55, of 9344,
which shared memory keeps, 92 (``benchmarks/data/public_operators.md``), and of an H100.

A layernorm's row is a block's of 128 threads, four numbers each at a time (``row``, where it waits
for itself; ``rows``, ``steps`` of 1 KiB, where blocks share a multiprocessor): one row of 448 takes
2.5, of 7168 takes 9.5 microseconds. It walks the row twice, and each walk waits longer for main
memory than for the L2. A norm that is written out takes a mean of float32 rows, walked as a sum is
(``meaned``).

Costs are fitted; they start at those of an H200 (``benchmarks/data/h200``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.fit.physics.blocks import walks
from calib.hardware.datasheet import Hardware
from model.ops import Gather, Norm, Operator, Reduction, Softmax, item_bytes

RULE = " streamed"
_TURNS, _PICKED, _PICKS = (f"{n}{RULE}" for n in ("added turns", "serial picked", "bound picks"))
_WALK, _SUMMED, _FEW = (f"{n}{RULE}" for n in ("bound walk", "bound summed", "serial few"))
_HELD, _PADDED = (f"{n}{RULE}" for n in ("added held", "serial padded"))
_WIDE, _LONE, _WALKED = (f"serial {n}{RULE}" for n in ("wide", "lone", "walked"))
ROW, _ROWS, _STEPS, _MEANED = (
    f"{n}{RULE}" for n in ("bound row", "serial rows", "serial steps", "added meaned")
)
COSTS = {
    _TURNS: float(np.log(930.0)),
    _PICKED: float(np.log(0.9)),
    _PICKS: float(np.log(141.0)),
    _WALK: float(np.log(380.0)),
    _SUMMED: float(np.log(63.0)),
    _FEW: float(np.log(0.22)),
    _HELD: float(np.log(150.0)),
    _PADDED: float(np.log(0.3)),
    _WIDE: float(np.log(0.83)),
    _LONE: float(np.log(0.3)),
    _WALKED: float(np.log(0.58)),
    ROW: float(np.log(1050.0)),
    _ROWS: float(np.log(260.0)),
    _STEPS: float(np.log(120.0)),
    _MEANED: float(np.log(380.0)),
}
"""Logarithms of cycles a unit; units of work are those of one multiprocessor."""
_VECTOR = 16
"""Bytes that a thread loads at once."""
_PICK = 4096
"""Bytes of a row that a block picks."""
_THREADS, _EACH = 128, 4
"""Of a block that picks element by element, and elements of a thread."""
_WARP, _MOST_THREADS = 32, 512
_LEAST_OF_THREAD, _MOST_OF_THREAD = 16, 256
"""Numbers that a thread of a sum is left where others share its row, and from which they do."""
_RESIDENT = 4
"""Blocks of :data:`_MOST_THREADS` on a multiprocessor."""
_ROW_STEP = 512
"""Numbers of a row that a layernorm's block takes at a time."""
_FEW_COLS = 32
_MOST_OF_WARP = 1024
_BESIDE = 4
"""Registers of a row beside which another block finds room."""
_FARTHER = 200.0
"""Cycles that a load from main memory takes longer than one from the L2: 400 and 200 of an A100 and
an H100 (doi:10.1016/j.ultsonch.2023.106546, table 3)."""
_NEVER = -50.0


def row_columns(op: Operator, hardware: Hardware, hot: Any = True) -> dict[str, Any]:
    """Columns of an operator on rows, each [n] or one; none of any other. ``hot``: [n] bool."""
    if isinstance(op, Gather):
        return _picked(op, hardware.sm_count)
    if isinstance(op, Reduction):
        return _summed(op, hardware.sm_count)
    if isinstance(op, Softmax):
        return _normalised(op, hardware)
    return _scaled(op, hardware, hot) if isinstance(op, Norm) else {}


def _picked(op: Gather, sms: int) -> dict[str, Any]:
    nbytes, elements = np.asarray(op.cols * item_bytes(op.dtype)), op.rows * np.asarray(op.cols)
    ragged = (nbytes % _VECTOR > 0) | (np.asarray(op.rows) == 1)
    turns = np.clip(np.ceil(elements / _THREADS), 1, _EACH) - 1
    blocks = op.rows * np.ceil(nbytes / _PICK)
    return {
        _TURNS: turns * ragged,
        _PICKED: elements / sms * ragged,
        "ragged": ragged + 0.0,
        _PICKS: np.where(ragged, _NEVER, np.log(blocks / sms)),
    }


def _summed(op: Reduction, sms: int) -> dict[str, Any]:
    rows, cols = np.asarray(op.rows), np.asarray(op.cols)
    few = cols < _FEW_COLS
    steps = _walked(rows, cols, item_bytes(op.dtype), sms)
    turns = np.maximum(rows / (sms * _RESIDENT), 1)
    steps = np.where(op.alone, np.ceil(cols / _MOST_THREADS) * turns, steps)
    return {
        _WALK: np.where(few, _NEVER, np.log(steps)),
        _SUMMED: np.where(few, _NEVER, np.log(rows / sms)),
        _FEW: rows * cols / sms * few,
        "few": few + 0.0,
    }


def _walked(rows: np.ndarray, cols: np.ndarray, item: float, sms: int) -> Any:
    """Steps of a sum over ``cols`` numbers of ``item`` bytes."""
    threads = np.maximum(_WARP, _MOST_THREADS / 2 ** np.floor(np.log2(rows)))
    each, at_once = cols / threads, sms * _RESIDENT
    whole = each >= np.minimum(_LEAST_OF_THREAD * _MOST_THREADS / threads, _MOST_OF_THREAD)
    each = np.where(whole, cols / _MOST_THREADS, each)
    blocks = np.minimum(np.ceil(at_once / rows), each / _LEAST_OF_THREAD)
    blocks = np.maximum(blocks, each / _MOST_OF_THREAD)
    shared = (each >= _MOST_OF_THREAD) & (rows <= at_once)
    return np.ceil(np.where(shared, each / blocks, each) * item / _VECTOR)


def _normalised(op: Softmax, hardware: Hardware) -> dict[str, Any]:
    rows, cols, sms = np.asarray(op.rows), np.asarray(op.cols), hardware.sm_count
    wide = cols > _MOST_OF_WARP
    padded = 2 ** np.ceil(np.log2(cols))
    of_a_thread = np.ceil(cols / walks.THREADS)
    kept = wide & walks.kept(op)
    alone = (of_a_thread > _BESIDE) | (walks.blocks_at_once(walks.THREADS, hardware) < 2)
    share = np.ceil(rows / sms) * wide
    in_registers = share * of_a_thread * walks.THREADS * kept
    return {
        _HELD: cols / _WARP * ~wide,
        _PADDED: rows * padded / sms * ~wide,
        _WIDE: in_registers,
        _LONE: in_registers * alone,
        _WALKED: share * cols * ~kept,
        "wide": wide + 0.0,
    }


def walk_cycles(op: Operator, hardware: Hardware) -> Any:
    """What blocks that walk whole rows take, by the costs that a fit starts from: of a wide
    softmax, a layernorm and the moments of channels. 0 of any other."""
    columns = row_columns(op, hardware)
    if isinstance(op, Reduction):
        return np.exp(COSTS[_WALK] + columns[_WALK]) * op.alone
    shared = sum(np.exp(COSTS[n]) * columns.get(n, 0.0) for n in _OF_MANY)
    return np.maximum(np.exp(COSTS[ROW] + columns.get(ROW, _NEVER)), shared)


_OF_MANY = (_WIDE, _LONE, _WALKED, _ROWS, _STEPS)


def _scaled(op: Norm, hardware: Hardware, hot: Any) -> dict[str, Any]:
    rows, cols, sms = np.asarray(op.rows), np.asarray(op.cols), hardware.sm_count
    if op.kind == "rmsnorm":
        return {_MEANED: _walked(rows, cols, item_bytes("float32"), sms)}
    steps = np.ceil(cols / _ROW_STEP)
    far = _FARTHER / np.exp(COSTS[ROW]) * walks.from_memory(op, hardware, hot)
    loads = steps * item_bytes(op.dtype) / item_bytes("bfloat16")
    return {ROW: np.log(steps * (1 + far)), _ROWS: rows / sms, _STEPS: rows * loads / sms}
