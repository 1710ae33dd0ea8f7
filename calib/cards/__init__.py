"""The calibrations that ship: figures fitted to public tables, and the code that uses them."""
