"""An operator as work that can be run: its inputs and its call, by family."""
