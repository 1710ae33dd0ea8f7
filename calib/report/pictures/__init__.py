"""PNGs of one run and of many."""
