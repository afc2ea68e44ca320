"""What auditors get and do: the pack, and its verification without a network, a database or an engine."""
