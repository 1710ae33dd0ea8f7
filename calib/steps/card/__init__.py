"""A card's sweep: what is fitted, compared and compiled beside it."""
