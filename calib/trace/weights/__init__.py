"""Weights as a release stores them: which are narrow, their bytes, and what multiplies them."""
