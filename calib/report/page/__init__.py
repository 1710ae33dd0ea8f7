"""``report.html``: one page that holds all it needs, and asks no network for anything."""
