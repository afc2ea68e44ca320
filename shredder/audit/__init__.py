"""What an auditor verifies offline: the log's entries, and all that they show together. Nothing here needs a database or Vault."""
