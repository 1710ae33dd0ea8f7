"""Joules in the tables of a run, and what a user asks of them."""
