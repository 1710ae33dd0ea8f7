"""A run of an inference engine's kernels in place of torch's."""
