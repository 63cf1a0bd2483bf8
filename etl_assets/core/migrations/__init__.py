"""Migration histories, one per database; the contracts are their target.

`HEADS` is known without Alembic, so that an up-to-date database costs one query and no import.
"""

HEADS = {"platform": "0007", "target": "0002"}
