"""The database: tables, queries by concern, migrations. No row object leaves this package."""
