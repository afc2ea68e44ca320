# issuer: makes keys and uses them. It can neither rotate, configure, trim nor delete one.

# "+" is one segment: "*" would reach keys/NAME/rotate and the rest. Listing "type" keeps exportable and
# allow_plaintext_backup out. Creating needs "update", and answers 200 for a key that exists.
path "$transit/keys/+"              { capabilities = ["update","read"]  allowed_parameters = { "type" = ["aes256-gcm96"] } }
path "$transit/encrypt/+"           { capabilities = ["update"] }
path "$transit/decrypt/+"           { capabilities = ["update"] }
path "$transit/datakey/plaintext/+" { capabilities = ["update"] }

# Epoch 0 only: with "create" on state/+/+ it could squat a ring's next epoch.
path "$kv/data/state/+/0"           { capabilities = ["create","read"] }
path "$kv/data/state/+/+"           { capabilities = ["read"] }
path "$kv/data/pointer/+"           { capabilities = ["create","read"] }
path "$kv/data/slots/+"             { capabilities = ["create","update","read"] }
path "$kv/data/log/head/+"          { capabilities = ["read"] }

# The deployment's own keys: sealed by the transit key "system", which is the administrator's alone to make, rotate or
# delete. An exact path beats "+", so that this role only decrypts with it.
path "$kv/data/system/+"             { capabilities = ["read"] }
path "$transit/keys/system"              { capabilities = ["read"] }
path "$transit/encrypt/system"           { capabilities = ["deny"] }
path "$transit/datakey/plaintext/system" { capabilities = ["deny"] }

# The log key's public half, compared with the database at every start. Signing is the sequencer's.
path "$log/keys/log"                { capabilities = ["read"] }

# Its own token.
path "auth/token/renew-self"       { capabilities = ["update"] }
path "auth/token/lookup-self"      { capabilities = ["read"] }
path "auth/token/revoke-self"      { capabilities = ["update"] }
path "sys/capabilities-self"       { capabilities = ["update"] }
