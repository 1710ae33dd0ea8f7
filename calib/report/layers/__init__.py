"""A page for each class of layer, and the whole model as data."""
