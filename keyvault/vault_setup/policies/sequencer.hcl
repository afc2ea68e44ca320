# sequencer: signs checkpoints with the log key and moves the log head. It reaches no other key.

path "$log/sign/log"                { capabilities = ["update"] allowed_parameters = { "input" = [] } }
path "$log/keys/log"                { capabilities = ["read"] }
path "$kv/data/log/head/+"          { capabilities = ["update","read"] }

# Its own token.
path "auth/token/renew-self"       { capabilities = ["update"] }
path "auth/token/lookup-self"      { capabilities = ["read"] }
path "auth/token/revoke-self"      { capabilities = ["update"] }
path "sys/capabilities-self"       { capabilities = ["update"] }
