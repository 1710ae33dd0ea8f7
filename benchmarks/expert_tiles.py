"""Tuned tiles of vLLM's expert layers, as ``calib/expert_tiles.json`` holds them.

    pip download vllm==0.24.0 --no-deps -d wheels
    python -m benchmarks.expert_tiles wheels/vllm-0.24.0-*.whl

Reads the tuning results that the wheel ships (Apache-2.0) and keeps those in bfloat16 of our cards.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path

from calib.fit.physics.blocks.expert_tiles import PATH
from calib.hardware.datasheet import hardware_names, load_hardware

_NAMED = re.compile(r"fused_moe/configs/E=(\d+),N=(\d+),device_name=([^,]+)\.json$")
_KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")


def tiles_of(wheel: Path) -> dict[str, dict[str, dict[str, list[int]]]]:
    """Card -> "experts/width" -> tokens -> rows, cols, depth, group, warps, stages."""
    cards = {
        device.replace(" ", "_"): name
        for name in hardware_names()
        for device in load_hardware(name).device_names
    }
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            named = _NAMED.search(entry)
            if named and named[3] in cards:
                tuned = {
                    int(k): v for k, v in json.loads(archive.read(entry)).items() if k.isdigit()
                }
                tiles = {str(k): [tuned[k][key] for key in _KEYS] for k in sorted(tuned)}
                shape = f"{int(named[1]):d}/{int(named[2]):d}"
                found.setdefault(cards[named[3]], {}).setdefault(shape, tiles)
    return {card: dict(sorted(shapes.items())) for card, shapes in sorted(found.items())}


def main() -> None:
    wheel = Path(sys.argv[1])
    source = f"vLLM {wheel.name.split('-')[1]} (Apache-2.0), fused_moe/configs, no dtype named"
    lines = [f'{{"source": {json.dumps(source)},', '"tiles": {']
    cards = tiles_of(wheel)
    for card, shapes in cards.items():
        rows = ",\n".join(
            f"  {json.dumps(s)}: {json.dumps(t, separators=(',', ':'))}" for s, t in shapes.items()
        )
        lines.append(
            f" {json.dumps(card)}: {{\n{rows}}}" + ("," if card != list(cards)[-1] else "")
        )
    temporary = PATH.with_suffix(".tmp")
    temporary.write_text("\n".join([*lines, "}}"]) + "\n", encoding="utf-8")
    temporary.rename(PATH)
    print(json.dumps({card: len(shapes) for card, shapes in cards.items()}))


if __name__ == "__main__":
    main()
