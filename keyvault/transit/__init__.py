"""Named-key engines behind one interface."""
