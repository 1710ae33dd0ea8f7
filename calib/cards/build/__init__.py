"""What fits the cards that ship: ``python -m calib.cards.build``."""
