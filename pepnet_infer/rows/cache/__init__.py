"""The embedding cache: hot rows between an engine and its store.

`EmbeddingCache` holds rows of one width; `CachedRows` puts one for each width of a bundle's tables before a store and
is what an engine asks.
"""
