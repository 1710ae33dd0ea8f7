"""The command line's manners: its help, and words in any order."""
