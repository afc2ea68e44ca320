"""Making a lost database anew from the log and the engine: docs/rebuild.md says what comes back and what does not."""
