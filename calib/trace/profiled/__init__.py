"""Operators as ``torch.profiler`` writes them down, asked what they are."""
