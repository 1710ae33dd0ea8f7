"""What a server's front looks like to a reader: texts, a page, a table."""
