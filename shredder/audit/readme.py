"""README.txt of an audit pack: the commands that verify it, with our program and with other people's. Pure."""

from __future__ import annotations

from shredder.audit.manifest import MAX_PROOFS
from shredder.log.checkpoint import Checkpoint
from shredder.log.note import VerifierKey

_TEXT = """\
AUDIT PACK
==========

log    {origin}
size   {size} entries
root   {root}
key    {key}

This file proves nothing: nothing verifies it. Compare the key above with the one that you were given on another way, and keep the file
`checkpoint` of this pack for the next audit: only with it can be shown that nothing was removed since.

What is here
------------
  checkpoint         the log's size and root, signed (C2SP tlog-checkpoint, signed-note)
  log-key            the key that verifies the signature (C2SP signed-note)
  tile/              every entry and every hash of the tree (C2SP tlog-tiles)
  population.jsonl   salts of account-months, so that a list from billing can be reconciled; `keyvault audit verify --population` reads it
  proofs/            proofs of the newest {proofs} entries of destroyed keys (C2SP tlog-proof), by index
  manifest           SHA-256 of all these files

With keyvault: no network, no database, no Vault
------------------------------------------------
In this directory; KEY is a file with the log's key, from another way, and CHECKPOINT the one of your last audit:

  keyvault audit verify . --log-key KEY --previous CHECKPOINT
  keyvault audit verify . --log-key KEY --population BILLING.csv
  keyvault audit verify . --log-key KEY --sample 25 --seed YOUR-SEED

Exit code 0: all of it is as it should be. 3: it is not, and each line says what and where.

With other people's tools
-------------------------
Files arrived whole (coreutils):

  sha256sum --check --quiet manifest

The signature (OpenSSL 3; -rawin):

  W=$(mktemp -d)
  sed '/^$/,$d' checkpoint > $W/body
  grep -F ' {origin} ' checkpoint | cut -d' ' -f3 | base64 -d | tail -c 64 > $W/signature
  {{ printf '\\060\\052\\060\\005\\006\\003\\053\\145\\160\\003\\041\\000'; cut -d+ -f3- log-key | base64 -d | tail -c 32; }} > $W/key.der
  openssl pkeyutl -verify -pubin -keyform DER -inkey $W/key.der -rawin -in $W/body -sigfile $W/signature

The whole tree (Tessera; compare the size and root that it prints with those in `checkpoint`, its exit code is no answer):

  go run github.com/transparency-dev/tessera/cmd/fsck@v1.0.4 --storage_url=file://$PWD --public_key=log-key --ui=false

One proof file: `VerifyProof` of filippo.io/torchwood v0.9.0, with `log` and the key as policy. Signature and tree in Go:
golang.org/x/mod/sumdb/note (`note.Open`) and .../tlog (`TreeHash`, `CheckRecord`, `CheckTree`).
"""


def readme(checkpoint: Checkpoint, key: VerifierKey) -> bytes:
    """Return the text, in UTF-8."""
    root = checkpoint.text.splitlines()[2]
    text = _TEXT.format(origin=checkpoint.origin, size=checkpoint.size, root=root, key=key, proofs=MAX_PROOFS)
    return text.encode()
