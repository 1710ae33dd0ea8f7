"""What a card's tables say of an operator: by itself, or by what stands in for it."""
