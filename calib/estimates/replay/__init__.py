"""Launches of a pass, in order, replayed on a host and a device."""
