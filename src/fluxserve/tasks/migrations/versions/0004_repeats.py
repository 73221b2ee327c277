"""Uploads and the operator's requests may be sent again, too; an account's uploads are counted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("idempotency_keys") as keys:  # SQLite makes the table anew
        keys.alter_column("task_id", nullable=True)
        keys.alter_column("first_state", nullable=True)
        keys.add_column(sa.Column("upload_id", sa.String(32)))
        keys.create_check_constraint("made_one_thing", sa.text("(task_id IS NULL) <> (upload_id IS NULL)"))
        keys.create_check_constraint("state_of_a_task", sa.text("(task_id IS NULL) = (first_state IS NULL)"))
    op.create_index("uploads_by_account", "uploads", ["account_id"])
    op.create_table(
        "operator_keys",
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("body_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("operator_keys_by_age", "operator_keys", ["created_at"])
