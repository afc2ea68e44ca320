"""The whole service: the key calls, and those of whoever reports facts, hands in requests or reads the log."""
