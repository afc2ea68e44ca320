"""How scopes map to named keys of the transit engine."""
