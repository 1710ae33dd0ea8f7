"""How kernels cut their work, a file a family: columns that a fit sees."""
