"""Two builds of this package compared: `make compare OLD=COMMIT`."""
