"""Which operators are measured, in which order, until a budget is spent."""
