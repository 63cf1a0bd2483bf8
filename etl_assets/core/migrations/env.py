"""Alembic's entry: runs the history on the connection that the caller opened."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table=context.config.get_main_option("version_table"),
    version_table_schema="etl",
)
with context.begin_transaction():
    context.run_migrations()
