"""Whether a bundle still is what export measured."""
