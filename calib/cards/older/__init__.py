"""torch by an older CUDA, on cards of which public traces tell."""
