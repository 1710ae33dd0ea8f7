"""What else a run could have been, unasked: which cases, on which cards, up to which batch."""
