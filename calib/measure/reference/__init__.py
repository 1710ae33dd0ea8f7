"""The real model, run module by module beside the clock."""
