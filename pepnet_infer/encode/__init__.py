"""A batch of columns → keys, bags and numbers, checked."""
