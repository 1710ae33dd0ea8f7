"""Measured serving runs beside estimates of them."""
