"""How right joules are: of operators that a fit did not see, and of whole models."""
