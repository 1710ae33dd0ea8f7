"""What is laid beside what: an estimate beside the clock, a run beside another run."""
