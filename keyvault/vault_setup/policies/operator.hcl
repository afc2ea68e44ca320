# operator: takes snapshots of Vault. Putting one back is the administrator's.

path "sys/storage/raft/snapshot"   { capabilities = ["read"] }

# Its own token.
path "auth/token/renew-self"       { capabilities = ["update"] }
path "auth/token/lookup-self"      { capabilities = ["read"] }
path "auth/token/revoke-self"      { capabilities = ["update"] }
path "sys/capabilities-self"       { capabilities = ["update"] }
