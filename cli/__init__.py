"""The command line: one file per audience."""
