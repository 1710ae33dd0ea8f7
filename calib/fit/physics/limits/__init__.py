"""What a card sustains of its rates, whatever a kernel asks: power, memory, whole tiles."""
