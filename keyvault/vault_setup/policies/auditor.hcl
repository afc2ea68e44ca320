# auditor: sees that keys, states and slots are there or gone, never what is in them.

path "$transit/keys"                { capabilities = ["list"] }
path "$transit/keys/+"              { capabilities = ["read"] }
path "$kv/metadata/state"           { capabilities = ["list"] }
path "$kv/metadata/slots"           { capabilities = ["list"] }
path "$kv/metadata/pointer"         { capabilities = ["list"] }
path "$kv/metadata/state/+"         { capabilities = ["list"] }
path "$kv/metadata/+/+"             { capabilities = ["read"] }
path "$kv/data/slots/+"             { capabilities = ["read"] }
path "$kv/data/pointer/+"           { capabilities = ["read"] }
path "$kv/data/log/head/+"          { capabilities = ["read"] }
path "$log/keys/log"                { capabilities = ["read"] }

# Joins Vault's audit log to the lifecycle log, whose device is mounted as "file".
path "sys/audit-hash/file"         { capabilities = ["update"] }

# A wrapped answer outlives its key and is found among the accessors; listing them needs "sudo". An accessor looked up
# shows a token's policies, not the token.
path "auth/token/accessors"        { capabilities = ["list","sudo"] }
path "auth/token/lookup-accessor"  { capabilities = ["update"] }

# Its own token.
path "auth/token/renew-self"       { capabilities = ["update"] }
path "auth/token/lookup-self"      { capabilities = ["read"] }
path "auth/token/revoke-self"      { capabilities = ["update"] }
path "sys/capabilities-self"       { capabilities = ["update"] }
