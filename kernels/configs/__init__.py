"""Which tile a shape gets: candidates, what fits a card, the pick, and choices that were timed."""
