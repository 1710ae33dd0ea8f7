"""What was measured: the record, its store, and what is read off it without a fit."""

from calib.samples.sample import Sample, SampleStore, read_samples, write_samples

__all__ = ["Sample", "SampleStore", "read_samples", "write_samples"]
