"""What inference engines' own kernels take: figures that ship beside a card's."""
