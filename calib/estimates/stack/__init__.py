"""A model as an inference engine runs it: fewer and other kernels than torch's."""
