"""Running the reference model: its phases, whole and module by module.

A phase is timed as a whole without hooks; the inclusive time of every module comes from hooks, in
repeats of their own between the others. Observers see each module called: ``enter`` before its
forward, ``leave`` after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from calib.measure.reference.model import Reference
from model.deepseek_ocr import page_side
from model.workload import Workload

if TYPE_CHECKING:
    import torch

PHASES = ("vision", "prefill", "decode")
STEP = " step "
"""In the name of a pause within a phase, behind the name of the phase's beginning."""
EMBEDDING_DEVIATION = 0.02
"""Of the random features that stand for an embedded page: that of the embedding's own rows."""
Between = Callable[[str], None]


class Observer(Protocol):
    """Told of every module before and after its forward, by its path."""

    def enter(self, path: str) -> None: ...

    def leave(self, path: str) -> None: ...


@dataclass(frozen=True)
class Inputs:
    """Random inputs of one workload, made once, so that every repeat does the same work."""

    page: torch.Tensor  # [batch, 3, side, side]
    tiles: torch.Tensor | None  # [batch * rows * columns, 3, tile_side, tile_side]
    features: torch.Tensor  # [batch, tokens, hidden]


def make_inputs(reference: Reference, workload: Workload, seed: int = 1) -> Inputs:
    import torch

    d, w = reference.dimensions, workload
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator)
        return values.to(device=reference.device, dtype=getattr(torch, d.dtype))

    tiles = None
    if w.tiles is not None:
        tiles = noise(w.batch * w.tiles[0] * w.tiles[1], 3, w.tile_side, w.tile_side)
    page = noise(w.batch, 3, page_side(w), page_side(w))
    return Inputs(page, tiles, noise(w.batch, d.prompt_length(w), d.hidden) * EMBEDDING_DEVIATION)


@dataclass(frozen=True)
class State:
    """Between two passes of the decoder: the cache and the scores of the last token."""

    cache: Any
    logits: torch.Tensor  # [batch, tokens, vocabulary]


@dataclass(frozen=True)
class Passes:
    """The three phases of one workload on one model."""

    reference: Reference
    workload: Workload
    inputs: Inputs

    def vision(self, observer: Observer | None = None) -> torch.Tensor:
        """Tower and projector for each view, newlines and separator put in: one page's features."""
        w, inputs = self.workload, self.inputs
        tiled: dict[str, Any] = {}
        if w.tiles is not None:
            rows, columns = w.tiles
            tiled = {
                "pixel_values_local": inputs.tiles,
                "num_local_patches": [rows * columns] * w.batch,
                "patches_grid": [[columns, rows]] * w.batch,
            }
        # The class calls this method, not the module's forward: no hook would see the path.
        model: Any = self.reference.model
        with region(observer, "model"):
            return model.model.get_image_features(inputs.page, **tiled).pooler_output

    def prefill(self) -> State:
        from transformers import DynamicCache

        return self.decoder(DynamicCache(), inputs_embeds=self.inputs.features)

    def step(self, state: State) -> State:
        """One greedy step."""
        return self.decoder(state.cache, input_ids=state.logits[:, -1:].argmax(-1))

    def decoder(self, cache: Any, **tokens: torch.Tensor) -> State:
        model: Any = self.reference.model
        out = model.model.language_model(past_key_values=cache, use_cache=True, **tokens)
        hidden = out.last_hidden_state
        if self.workload.logits == "last":
            hidden = hidden[:, -1:]
        return State(cache, model.lm_head(hidden))


@contextmanager
def region(observer: Observer | None, path: str) -> Iterator[None]:
    """``observer`` is told of a stretch of code as if it were a module at ``path``."""
    if observer is None:
        yield
        return
    observer.enter(path)
    try:
        yield
    finally:
        observer.leave(path)


@contextmanager
def observed(model: torch.nn.Module, observer: Observer) -> Iterator[None]:
    """Hooks on all modules while this lasts; they are gone after it, whatever happens."""
    handles = []
    for path, module in model.named_modules():

        def before(_module: Any, _inputs: Any, path: str = path) -> None:
            observer.enter(path)

        def after(_module: Any, _inputs: Any, _output: Any, path: str = path) -> None:
            observer.leave(path)

        handles += [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after, always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def stopwatch(device: str, seconds: list[float]) -> Iterator[None]:
    """Append the wall time of what is inside, the device's queue drained before and after it."""
    synchronise(device)
    start = time.perf_counter()
    yield
    synchronise(device)
    seconds.append(time.perf_counter() - start)


def synchronise(device: str) -> None:
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def run_phases(
    passes: Passes, between: Between, label: str, timer: ModuleTimer | None = None
) -> dict[str, float]:
    """All phases once, in order: seconds of each. ``between`` runs before each and after the last.

    With ``timer`` the modules are timed too; its marks are collected between phases. Without it, on
    a CPU, ``between`` runs between decode steps as well: memory that others use too slows a decode
    from one moment to the next. A device with a queue is not stopped there.
    """
    device = passes.reference.device
    seconds: dict[str, float] = {}
    state: list[State] = []
    steps = [lambda: state.append(passes.step(state.pop()))] * passes.workload.decode_steps
    whole = timer is not None or device != "cpu"
    work: dict[str, list[Callable[[], Any]]] = {
        "vision": [lambda: passes.vision(timer)],
        "prefill": [lambda: state.append(passes.prefill())],
        "decode": [lambda: [step() for step in steps]] if whole else steps,
    }
    for phase, parts in work.items():
        taken: list[float] = []
        for index, part in enumerate(parts):
            between(f"{label} {phase}" + (f"{STEP}{index}" if index else ""))
            with stopwatch(device, taken):
                part()
        seconds[phase] = sum(taken)
        if timer is not None:
            timer.collect(phase)
    between(f"{label} end")
    return seconds


NEW, SEEN = "new", "seen"


def over_lengths(passes: Passes, most: int = 16) -> dict[str, list[float]]:
    """Seconds of decode steps over ``NEW`` lengths, and of the same steps once they are ``SEEN``.

    The steps follow the workload's own, ``most`` of them at most, each with the queue drained. A
    length that a process meets for the first time may cost its host more than all the rest of the
    step (``calib.hardware.attention_backend``), and every token of a real generation is one.
    """
    device = passes.reference.device
    found: dict[str, list[float]] = {}
    for name in (NEW, SEEN):
        state, seconds = passes.prefill(), found.setdefault(name, [])
        for index in range(passes.workload.decode_steps + most):
            if index < passes.workload.decode_steps:
                state = passes.step(state)
                continue
            with stopwatch(device, seconds):
                state = passes.step(state)
    return found


def warm_up(passes: Passes, limit_s: float = 15.0, settled: float = 1.1) -> list[float]:
    """Run all phases until a round is within ``settled`` of the best, or for ``limit_s`` seconds.

    Returns the seconds of every round; the first ones pay for memory, threads and kernels.
    """
    rounds: list[float] = []
    while not rounds or sum(rounds) < limit_s:
        rounds.append(sum(run_phases(passes, lambda _: None, "").values()))
        if len(rounds) > 1 and rounds[-1] <= settled * min(rounds[:-1]):
            break
    return rounds


@dataclass
class ModuleTimer:
    """Inclusive time of every module. On CUDA: between events in the stream, not on the host."""

    device: str
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    calls: dict[tuple[str, str], int] = field(default_factory=dict)
    _open: list[Any] = field(default_factory=list)
    _marks: list[tuple[str, Any, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch

        self._on_device = torch.device(self.device).type == "cuda"
        self._event = torch.cuda.Event

    def enter(self, path: str) -> None:
        self._open.append(self._mark())

    def leave(self, path: str) -> None:
        self._marks.append((path, self._open.pop(), self._mark()))

    def _mark(self) -> Any:
        if not self._on_device:
            return time.perf_counter()
        event = self._event(enable_timing=True)
        event.record()
        return event

    def collect(self, phase: str) -> None:
        """Sum up the marks since the last phase, calls of one path together."""
        for path, start, end in self._marks:
            taken = start.elapsed_time(end) / 1e3 if self._on_device else end - start
            key = (phase, path)
            self.seconds[key] = self.seconds.get(key, 0.0) + taken
            self.calls[key] = self.calls.get(key, 0) + 1
        self._marks.clear()


def hook_seconds(device: str, calls: int = 2000) -> float:
    """What the two hooks of a timed module cost the host at each call: a module that does nothing,
    with them and without, the best of five."""
    import torch

    module = torch.nn.Identity()
    value = torch.zeros(1)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            module(value)
        return (time.perf_counter() - start) / calls

    def run_hooked() -> float:
        with observed(module, ModuleTimer(device)):
            return run()

    return max(0.0, min(run_hooked() for _ in range(5)) - min(run() for _ in range(5)))


def experts_touched(passes: Passes) -> dict[str, list[float]]:
    """Distinct experts that each mixture-of-experts layer touches, in the order of the layers.

    ``prefill``: in the one pass; ``decode``: the mean over all steps. Runs both, untimed.
    """
    import torch

    counts: dict[str, list[int]] = {}
    handles = []
    for path, module in passes.reference.model.named_modules():
        if type(module).__name__.endswith("TopkRouter"):

            def count(_module: Any, _inputs: Any, output: Any, path: str = path) -> None:
                indices = output[2]  # [tokens, top_k]
                counts.setdefault(path, []).append(torch.unique(indices).numel())

            handles.append(module.register_forward_hook(count))
    try:
        state = passes.prefill()
        for _ in range(passes.workload.decode_steps):
            state = passes.step(state)
    finally:
        for handle in handles:
            handle.remove()
    steps = passes.workload.decode_steps
    return {
        "prefill": [float(c[0]) for c in counts.values()],
        "decode": [sum(c[1:]) / steps for c in counts.values()],
    }
