"""Which models of ``transformers`` are traced: ``python -m benchmarks.architectures``.

    python -m benchmarks.architectures --configs FOLDER    # every config.json below FOLDER
    python -m benchmarks.architectures --types             # every model type, by its defaults
    python -m benchmarks.architectures --types gpt2 t5     # these

A configuration is traced at full size: as text, and once more with an image of its own side where
the model reads both. A model type has the configuration that its class makes without arguments,
with two layers where it is text. Each ends as one of: runs; one clear line (a ``CalibError``); a
traceback; or over the time limit. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from calib.errors import CalibError
from model.workload import Workload

TEXT = Workload("text_512", prompt_tokens=512, decode_steps=128)
SHORT = Workload("short", prompt_tokens=64, decode_steps=16)
KEPT_LAYERS = 2
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "decoder_layers", "encoder_layers")
"""How configurations call a number of layers."""
ATTENDS = ("full_attention", "attention", "hybrid", "sliding_attention")
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_types")
"""Lists with an entry a layer."""


@dataclass(frozen=True)
class Outcome:
    """How one model ended. ``how``: runs, line, traceback or slow; ``said``: the error."""

    name: str
    how: str
    seconds: float
    said: str = ""
    phases: tuple[str, ...] = ()


class TooSlow(BaseException):
    """The time limit; no ``Exception``, so that no library takes it for one of its own."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(name: str, path: Path, workload: Workload, limit: int) -> Outcome:
    """Loads and traces one ``config.json`` under ``workload``."""
    from calib.trace.hf import load

    start, phases, how, said = time.perf_counter(), tuple[str, ...](), "runs", ""
    try:
        with limited(limit):
            found = load(path).phases(workload)
        phases = tuple(found)
        empty = [phase for phase, one in found.items() if not one.layer.calls()]
        if empty:
            how, said = "traceback", f"no calls in {', '.join(empty)}"
    except CalibError as error:
        how, said = ("line" if "\n" not in str(error) else "traceback"), str(error)
    except TooSlow:
        how, said = "slow", f"over {limit} s"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        how = "traceback"
    return Outcome(name, how, time.perf_counter() - start, " ".join(said.split()), phases)


def of_configs(folder: Path, limit: int) -> Iterator[Outcome]:
    for path in sorted(folder.rglob("config.json")):
        name = path.parent.name
        yield outcome(name, path, TEXT, limit)
        side = own_side(path)
        if side:
            yield outcome(f"{name} + image", path, replace(TEXT, side=side), limit)


def own_side(path: Path) -> int | None:
    """That of a model's images, where it reads text beside them; 448 where its file has none."""
    given = json.loads(path.read_text("utf-8"))
    sees, reads = given.get("vision_config"), "text_config" in given or "vocab_size" in given
    if not isinstance(sees, dict) or not reads:
        return None
    side = sees.get("image_size") or 448
    return int(side if isinstance(side, int) else side[0])


def of_types(names: list[str], limit: int) -> Iterator[Outcome]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

    for name in names or sorted(CONFIG_MAPPING_NAMES):
        try:
            given = shortened(CONFIG_MAPPING[name]().to_dict())
        except Exception as error:  # a class that has no defaults
            said = " ".join(f"no configuration by default: {error}".split())
            yield Outcome(name, "none", 0.0, said)
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(given, default=str), "utf-8")
            yield outcome(name, path, SHORT, limit)


def shortened(given: dict[str, Any]) -> dict[str, Any]:
    """``given`` with two layers, and those of what it holds, where there is text; with one more of
    those that come up to the first that attends, where the first two do not."""
    found = {k: shortened(v) if isinstance(v, dict) else v for k, v in given.items()}
    if "vocab_size" in given:
        kinds = next((given[k] for k in PER_LAYER if isinstance(given.get(k), list)), [])
        attends = (n for n, kind in enumerate(kinds, 1) if str(kind) in ATTENDS)
        kept = max(KEPT_LAYERS, next(attends, 0))
        for key in DEPTHS:
            if isinstance(found.get(key), int):
                found[key] = min(found[key], kept)
        for key in PER_LAYER:
            if isinstance(found.get(key), list):
                found[key] = found[key][:kept]
    return found


def line(one: Outcome) -> str:
    said = one.said if one.how != "runs" else " ".join(one.phases)
    return f"{one.name:44} {one.how:9} {one.seconds:6.1f} s  {said[:150]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--configs", type=Path, help="a folder with config.json files below it")
    parser.add_argument("--types", nargs="*", metavar="TYPE", help="model types; none named: all")
    parser.add_argument("--limit", type=int, default=120, help="seconds for one model")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    made = []
    if options.configs:
        made.append(of_configs(options.configs, options.limit))
    if options.types is not None:
        made.append(of_types(options.types, options.limit))
    found = []
    for outcomes in made:
        for one in outcomes:
            print(line(one), flush=True)
            found.append(one)
    counts = Counter(one.how for one in found)
    print(json.dumps({"counts": dict(counts), "outcomes": [asdict(one) for one in found]}))


if __name__ == "__main__":
    main()
