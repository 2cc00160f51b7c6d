"""Verification of a bundle: its bytes and its scores are those that export measured."""
