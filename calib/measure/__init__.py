"""Times operators and the reference model on the device that is here."""
