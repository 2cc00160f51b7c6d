"""What a call pins: one version of the model, and how an engine was asked to be loaded."""
