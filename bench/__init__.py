"""Benchmarks: every figure beside its rival's, from the same run."""
