"""How long work takes: operators sampled on a device, a fitted efficiency, calibrated estimates."""
