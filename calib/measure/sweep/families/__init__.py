"""Shapes that models have, as ranges to draw from, by family of operators."""
