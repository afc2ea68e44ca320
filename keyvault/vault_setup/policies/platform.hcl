# platform: reports facts to the service. A login of its own, so that Vault's audit log tells it apart; no keys.

# Its own token.
path "auth/token/renew-self"       { capabilities = ["update"] }
path "auth/token/lookup-self"      { capabilities = ["read"] }
path "auth/token/revoke-self"      { capabilities = ["update"] }
path "sys/capabilities-self"       { capabilities = ["update"] }
