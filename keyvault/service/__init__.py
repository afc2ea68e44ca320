"""The key service: data keys over HTTP, for the storage layer."""
