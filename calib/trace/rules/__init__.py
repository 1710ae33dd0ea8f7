"""What each operator of torch is in ours, a table a family."""
