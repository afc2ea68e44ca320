"""Many threads and processes at once, and databases that refuse: nothing is lost, doubled, or given out too late."""
