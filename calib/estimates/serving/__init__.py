"""From seconds of a step to what users of a server see."""
