"""Migrations: a history per owner of tables and database, in the folder of the system; the contracts are their target."""
