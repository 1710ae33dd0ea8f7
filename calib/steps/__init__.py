"""What a run does, a file a step: request, target, measuring, answer."""
