"""The leading tool on the same runs, in an interpreter of its own that has it installed.

    python -m venv PEER && PEER/bin/pip install aiconfigurator==0.12.0
    PEER/bin/python -m benchmarks.serving.peer ASKED.csv ANSWERED.csv

Given are a run's layout, lengths, batch and formats of products; the rest is the tool's default.
"""

from __future__ import annotations

import csv
import logging
import sys
import warnings
from typing import Any

FIELDS = ("id", "ttft_s", "tpot_s", "error")
ASKED = [
    *("id", "path", "system", "engine", "isl", "osl", "concurrency", "tp", "pp", "dp"),
    *("moe_tp", "moe_ep", "gemm_quant_mode", "moe_quant_mode", "mixture"),
]

NAMES = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
}
"""Models whose configuration the tool brings along under another name: no download."""


def estimate(row: dict[str, str]) -> dict[str, Any]:
    """The tool's answer, or why there is none."""
    from aiconfigurator.cli.api import cli_estimate  # type: ignore[import-not-found]

    numbers = {
        name: int(float(row[name])) for name in ASKED if row[name].replace(".", "").isdigit()
    }
    asked: dict[str, Any] = {
        "isl": numbers["isl"],
        "osl": numbers["osl"],
        "batch_size": numbers["concurrency"],
        "tp_size": numbers["tp"],
        "pp_size": numbers["pp"],
        "attention_dp_size": numbers["dp"],
    }
    if row["gemm_quant_mode"]:
        asked["gemm_quant_mode"] = row["gemm_quant_mode"]
    if row["mixture"] == "True":
        asked |= {"moe_tp_size": numbers["moe_tp"], "moe_ep_size": numbers["moe_ep"]}
        if row["moe_quant_mode"]:
            asked["moe_quant_mode"] = row["moe_quant_mode"]
    try:
        name = NAMES.get(row["path"], row["path"])
        found = cli_estimate(name, row["system"], backend_name=row["engine"], **asked)
    except BaseException as error:  # the tool leaves by sys.exit where it cannot answer
        return {"id": row["id"], "error": f"{type(error).__name__}: {error}"[:200]}
    return {"id": row["id"], "ttft_s": found.ttft * 1e-3, "tpot_s": found.tpot * 1e-3}


def main() -> None:
    asked, answered = sys.argv[1:3]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with open(asked, newline="") as rows, open(answered, "w", newline="") as out:
        writer = csv.DictWriter(out, FIELDS)
        writer.writeheader()
        for row in csv.DictReader(rows):
            writer.writerow(estimate(row))
            out.flush()


if __name__ == "__main__":
    main()
