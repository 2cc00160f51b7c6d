"""`bench sync`: what an engine that follows a log costs its callers, and how fresh it is."""
