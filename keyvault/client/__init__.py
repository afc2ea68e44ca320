"""The client of the key service: the methods of `KeyVault`, with keys from the service and data that never leaves the process."""
