"""Training data: where it comes from, how it is encoded, and which rows are for what."""
