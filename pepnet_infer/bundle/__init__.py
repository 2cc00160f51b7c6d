"""The directory that export writes and the engine serves."""
