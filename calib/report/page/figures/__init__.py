"""Figures of the page as specifications of Vega-Lite, which a browser draws."""
