"""Training: a log of exposures → a checkpoint, and its evaluation."""
