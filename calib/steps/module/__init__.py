"""A module of one's own: from a file that the command line names, or in one call."""
