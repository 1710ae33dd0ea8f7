"""``report.md``: the page's contents in its order, as text."""
