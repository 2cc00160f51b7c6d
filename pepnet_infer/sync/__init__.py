"""Online sync: what a trainer publishes reaches every engine that follows, as whole versions.

`delta` is what one training pass changed; `transport` carries deltas and bundles; `follower` brings an engine up to
date. docs/sync.md shows them together.
"""
