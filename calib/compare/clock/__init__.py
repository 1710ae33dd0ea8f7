"""What was measured of a whole model, joined to what was estimated."""
