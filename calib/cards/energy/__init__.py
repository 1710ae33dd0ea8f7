"""Joules of operators: what was counted on a card, what is fitted to it, what ships."""
