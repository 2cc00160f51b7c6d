"""The reference model, the networks it is compared with, and its two halves around other people's modules."""
