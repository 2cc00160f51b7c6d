"""Training: a log of exposures → a checkpoint, and what the model is worth."""
