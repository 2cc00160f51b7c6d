"""`bench cache` and `bench cache-speed`: what a policy is worth, and how fast the cache is beside its peers."""
