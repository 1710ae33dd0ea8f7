"""Reports: what a run found, as tables, pictures, documents and data. Sees tables only."""
