"""How long work takes: operators sampled on a device, a fitted efficiency, calibrated estimates.

``calib.estimate(module, inputs, hw="h200")`` is the whole of it for a torch module of one's own
(``calib.steps.module.call``); nothing is imported before it is asked for.
"""

__all__ = ["estimate"]


def __getattr__(name: str) -> object:
    if name == "estimate":
        from calib.steps.module.call import estimate

        return estimate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
