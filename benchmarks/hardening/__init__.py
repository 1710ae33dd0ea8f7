"""What bad input, kills and full disks do: ``python -m benchmarks.hardening`` runs it."""
