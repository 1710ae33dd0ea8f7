"""What bad input, kills and crowds do to calib: ``python -m benchmarks.hardening``."""
