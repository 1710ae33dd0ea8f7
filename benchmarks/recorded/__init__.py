"""Estimates against a card's record: samples, whole models, graphs. ``python -m`` runs it."""
