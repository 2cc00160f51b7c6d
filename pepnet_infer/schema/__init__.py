"""What a model reads and what it computes: the feature schema and the network's configuration."""
