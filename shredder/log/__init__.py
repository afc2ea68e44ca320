"""The lifecycle log: a Merkle tree of events in static files, as C2SP tlog-tiles, that anybody can verify offline."""
