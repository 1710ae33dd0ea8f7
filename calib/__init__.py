"""How long work takes: samples of operators on a device, a fitted efficiency, calibrated estimates."""
