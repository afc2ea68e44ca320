# shredder: destroys keys, and writes ring states without what was destroyed. It needs to create keys, because a deletion
# that was interrupted is finished by creating the same name and deleting it again.

# The listed parameters keep exportable and allow_plaintext_backup out.
path "$transit/keys"                { capabilities = ["list"] }
path "$transit/keys/+"              { capabilities = ["read","update","delete"] allowed_parameters = { "type" = ["aes256-gcm96"] } }
path "$transit/keys/+/rotate"       { capabilities = ["update"] }
path "$transit/keys/+/config"       { capabilities = ["update"] allowed_parameters = { "deletion_allowed" = [] "min_decryption_version" = [] "min_encryption_version" = [] } }
path "$transit/keys/+/trim"         { capabilities = ["update"] }
path "$transit/encrypt/+"           { capabilities = ["update"] }
path "$transit/decrypt/+"           { capabilities = ["update"] }

# States are create-only and pointers update-only: it can neither overwrite a state nor open a ring.
path "$kv/data/state/+/+"           { capabilities = ["create","read"] }
path "$kv/data/pointer/+"           { capabilities = ["update","read"] }
path "$kv/data/slots/+"             { capabilities = ["read"] }
# Nobody has "update" on metadata: an entry's own max_versions beats the mount's.
path "$kv/metadata/state/+"         { capabilities = ["list"] }
path "$kv/metadata/state/+/+"       { capabilities = ["read","delete"] }
path "$kv/metadata/pointer/+"       { capabilities = ["read","delete"] }
path "$kv/data/log/head/+"          { capabilities = ["read"] }

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
