"""The checklist of an NVIDIA card: ``python -m benchmarks.card`` (or ``make gpu``)."""
