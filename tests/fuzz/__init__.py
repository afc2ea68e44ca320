"""Fuzz targets, one a parser. `python -m tests.fuzz.run TARGET tests/fuzz/corpus/TARGET` runs one until it is stopped."""
