"""The entry: configuration, operators, samples, fit, estimates, report. ``python -m calib.run``."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from calib.checkout import CONF, check_packages
from calib.errors import CalibError


def run(config: dict[str, Any], folder: Path) -> None:
    """One run: everything that it learns goes into ``folder``."""
    from calib import steps
    from calib.report.terminal import print_report
    from calib.report.write import write_report
    from calib.target import find_target

    model, workload = steps.model_and_workload(config)
    target = find_target(config)
    if target.here:
        target = steps.measure_operators(config, target, model.phases(workload))
    if config["mode"] == "calibrate":
        return
    calibrations = steps.fit_samples(target)
    host_s = steps.measure_host(config, target, calibrations[0])
    observed = steps.measure_model(config, target, workload)
    phases = model.phases(workload, steps.routing(observed))
    record = steps.estimate(config, target, model, workload, phases, calibrations, observed, host_s)
    write_report(record, folder, config["report"]["pictures"], config["report"]["layers"])
    print_report(record)
    print(f"report: {folder / 'report.md'}")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    try:
        check_packages()
        run(plain, folder)  # type: ignore[arg-type]
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            from calib.report.write import merge_estimates

            done = sorted(f.parent for f in folder.parent.glob("*/estimates.parquet"))
            merge_estimates(done, folder.parent / "estimates.parquet")
    except (CalibError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept; run again to go on", file=sys.stderr)
        sys.exit(130)


def cli() -> None:
    """The command line: what Hydra finds wrong before a run starts is one clear error too."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    gc.set_threshold(50_000, 20, 20)  # what imports and tables create stays: a search is in vain
    try:
        main()
    except (OSError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    cli()
