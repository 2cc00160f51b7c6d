"""The trainer's side of online sync: what is pushed, and how it becomes a delta."""
