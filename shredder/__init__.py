"""Destruction of keys, and the evidence of it."""
