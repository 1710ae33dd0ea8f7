"""From a torch operator, as it is dispatched, to operators of ``model.ops``."""
