"""What an account wants of the queue: names for keys, fair turns, pools, deadlines, idempotency, webhooks, uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

points = sa.BigInteger().with_variant(sa.Integer, "sqlite")
zero = sa.text("0")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("served", points, nullable=False, server_default=zero))
    op.add_column("api_keys", sa.Column("name", sa.Text, nullable=False, server_default=""))
    for column in (
        sa.Column("steps", sa.Integer),
        sa.Column("api_key_id", sa.String(16)),
        sa.Column("model", sa.Text, nullable=False, server_default=""),
        sa.Column("pool", sa.String(36), nullable=False, server_default="public"),
        sa.Column("work", points, nullable=False, server_default=zero),
        sa.Column("turn", points),
        sa.Column("deadline", sa.Float),
        sa.Column("cancel_code", sa.Text),
        sa.Column("version", sa.Integer, nullable=False, server_default=zero),
        sa.Column("webhook_url", sa.Text),
        sa.Column("webhook_secret", sa.Text),
    ):
        op.add_column("tasks", column)
    if op.get_bind().dialect.name == "sqlite":  # there were no tasks elsewhere yet
        _name_models()
    op.create_index("tasks_by_account", "tasks", ["account_id", "number"])
    op.create_index("tasks_by_turn", "tasks", ["turn"])
    still_open = sa.text("deadline IS NOT NULL AND state IN ('staged', 'pending', 'processing')")
    op.create_index("tasks_by_deadline", "tasks", ["deadline"], sqlite_where=still_open, postgresql_where=still_open)
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.String(36), sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("body_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("task_id", sa.String(36), sa.ForeignKey("tasks.id"), nullable=False),
        sa.Column("first_state", sa.String(10), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("idempotency_keys_by_age", "idempotency_keys", ["created_at"])
    op.create_table(
        "previews",
        sa.Column("task_id", sa.String(36), sa.ForeignKey("tasks.id"), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("account_id", sa.String(36), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("key", sa.String(40), nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index("uploads_by_expiry", "uploads", ["expires_at"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("task_id", sa.String(36), sa.ForeignKey("tasks.id"), nullable=False, unique=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float),
        sa.Column("delivered_at", sa.Float),
    )
    to_send = sa.text("next_at IS NOT NULL")
    op.create_index("webhooks_due", "webhooks", ["origin", "next_at"], sqlite_where=to_send, postgresql_where=to_send)
    op.create_table(
        "deliveries",
        sa.Column("id", points, primary_key=True),
        sa.Column("webhook_id", sa.String(36), sa.ForeignKey("webhooks.id"), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.Text),
    )
    op.create_index("deliveries_by_webhook", "deliveries", ["webhook_id"])


def _name_models() -> None:
    """Finished tasks change this once; their guard steps aside for it."""
    guard = op.get_bind().scalar(sa.text("SELECT sql FROM sqlite_master WHERE name = 'tasks_final_stay'"))
    op.execute("DROP TRIGGER tasks_final_stay")
    op.execute("UPDATE tasks SET model = json_extract(generation, '$.model')")
    op.execute(guard)
