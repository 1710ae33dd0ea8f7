"""What formulas say of an operator on a device, before anything is learned."""
