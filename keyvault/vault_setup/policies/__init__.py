"""The policies, one HCL template a role: `$transit`, `$log` and `$kv` stand for the mounts."""
