"""How kernels of attention cut their work."""
