"""Products and parameters are text: a number that is stored becomes its digits."""

from alembic import op

revision = "0002"
down_revision = "0001"

IDS = {
    "aligned_work_orders": ("parameter_id", "product_id"),
    "metrics": ("parameter_id",),
    "product_correlations": ("parameter_id", "product_id"),
    "workorders": ("product_id",),
}


def upgrade() -> None:
    for table, columns in IDS.items():
        changes = []
        for column in columns:
            rule = f"{table}_{column}"
            changes += [
                f'DROP CONSTRAINT "{rule}_ge"',
                f'ALTER COLUMN "{column}" TYPE text COLLATE "C" USING "{column}"::text',
                f'ADD CONSTRAINT "{rule}_min_length" CHECK (char_length("{column}") >= 1)',
                f'ADD CONSTRAINT "{rule}_max_length" CHECK (char_length("{column}") <= 200)',
            ]
        # In one statement, so that a large table is written anew once.
        op.execute(f"ALTER TABLE production.{table} {', '.join(changes)}")
