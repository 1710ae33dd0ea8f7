"""What work is done: operators, layers and whole models as plain shapes.

Nothing in this package knows a GPU, a clock or torch; it needs the standard library and numpy.
"""
