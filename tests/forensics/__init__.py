"""Forensics on Vault: what its API, its raw storage, its files and its snapshots still hold of a destroyed key.

`raw_storage` asks a running server; `carving` finds entries in the bytes of files, freed pages and raft logs included; `barrier`
opens them with nothing but the unseal key. What was found is in docs/forensics.md.
"""
