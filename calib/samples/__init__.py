"""What was measured: the record, its store, and what is read off it without a fit."""

from calib.samples.files import read_samples, write_samples
from calib.samples.sample import Sample
from calib.samples.store import SampleStore

__all__ = ["Sample", "SampleStore", "read_samples", "write_samples"]
