# restorer: replays destructions after a restore, and begins a new incarnation. To be disabled when the replay is done.

path "$transit/keys"                { capabilities = ["list"] }
path "$transit/keys/+"              { capabilities = ["read","update","delete"] allowed_parameters = { "type" = ["aes256-gcm96"] } }
path "$transit/keys/+/rotate"       { capabilities = ["update"] }
path "$transit/keys/+/config"       { capabilities = ["update"] allowed_parameters = { "deletion_allowed" = [] "min_decryption_version" = [] "min_encryption_version" = [] } }
path "$transit/keys/+/trim"         { capabilities = ["update"] }
path "$transit/encrypt/+"           { capabilities = ["update"] }
path "$transit/decrypt/+"           { capabilities = ["update"] }

# Pointers, slots and the log head of the new incarnation are written, those of the old one removed.
path "$kv/data/state/+/+"           { capabilities = ["create","read"] }
path "$kv/data/pointer/+"           { capabilities = ["create","update","read"] }
path "$kv/data/slots/+"             { capabilities = ["create","update","read"] }
path "$kv/data/log/head/+"          { capabilities = ["create","update","read"] }
path "$kv/metadata/state"           { capabilities = ["list"] }
path "$kv/metadata/pointer"         { capabilities = ["list"] }
path "$kv/metadata/slots"           { capabilities = ["list"] }
path "$kv/metadata/state/+"         { capabilities = ["list"] }
path "$kv/metadata/state/+/+"       { capabilities = ["read","delete"] }
path "$kv/metadata/pointer/+"       { capabilities = ["read","delete"] }
path "$kv/metadata/slots/+"         { capabilities = ["read","delete"] }

# The deployment's own keys: sealed by the transit key "system", which is the administrator's alone to make, rotate or
# delete. An exact path beats "+", so that this role only decrypts with it.
path "$kv/data/system/+"             { capabilities = ["read"] }
path "$transit/keys/system"         { capabilities = ["read"] }
path "$transit/keys/system/rotate"  { capabilities = ["deny"] }
path "$transit/keys/system/config"  { capabilities = ["deny"] }
path "$transit/keys/system/trim"    { capabilities = ["deny"] }
path "$transit/encrypt/system"      { capabilities = ["deny"] }

# The log key's public half, compared with the database at every start. Signing is the sequencer's.
path "$log/keys/log"                { capabilities = ["read"] }

# Its own token.
path "auth/token/renew-self"       { capabilities = ["update"] }
path "auth/token/lookup-self"      { capabilities = ["read"] }
path "auth/token/revoke-self"      { capabilities = ["update"] }
path "sys/capabilities-self"       { capabilities = ["update"] }
