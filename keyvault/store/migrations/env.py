"""Alembic's entry: runs the revisions on the connection that `keyvault.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from keyvault.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
