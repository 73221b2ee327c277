"""Accounts, keys, tasks, outputs, ledger; and the triggers that hold when code is wrong."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

points = sa.BigInteger().with_variant(sa.Integer, "sqlite")

ALLOWED = (
    "staged>pending",
    "staged>failed",
    "pending>processing",
    "pending>failed",
    "processing>completed",
    "processing>failed",
    "processing>pending",
)
MOVES = ", ".join(f"'{move}'" for move in ALLOWED)


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("balance", points, nullable=False),
        sa.Column("frozen", points, nullable=False),
        sa.Column("max_concurrent", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.CheckConstraint("balance >= 0", name="balance_not_negative"),
        sa.CheckConstraint("frozen >= 0", name="frozen_not_negative"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("account_id", sa.String(36), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("is_first", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float),
    )
    op.create_table(
        "tasks",
        sa.Column("number", points, primary_key=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("account_id", sa.String(36), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("generation", sa.Text, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("price", points, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Float),
        sa.Column("step", sa.Integer),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("cancel_wished_at", sa.Float),
        sa.CheckConstraint("state IN ('staged', 'pending', 'processing', 'completed', 'failed')", name="known_state"),
        sa.CheckConstraint("(state = 'processing') = (lease_until IS NOT NULL)", name="lease_while_processing"),
        sa.CheckConstraint("(state IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name="ended_when_final"),
    )
    still_open = sa.text("state IN ('staged', 'pending', 'processing')")
    op.create_index("tasks_by_state", "tasks", ["state", "number"])
    op.create_index(
        "tasks_open_by_account",
        "tasks",
        ["account_id", "state", "number"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_table(
        "outputs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("task_id", sa.String(36), sa.ForeignKey("tasks.id"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("swept_at", sa.Float),
        sa.UniqueConstraint("task_id", "position", name="outputs_once"),
    )
    unswept = sa.text("swept_at IS NULL")
    op.create_index("outputs_to_sweep", "outputs", ["expires_at"], sqlite_where=unswept, postgresql_where=unswept)
    op.create_table(
        "ledger",
        sa.Column("id", points, primary_key=True),
        sa.Column("account_id", sa.String(36), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("task_id", sa.String(36), sa.ForeignKey("tasks.id")),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("balance_change", points, nullable=False),
        sa.Column("frozen_change", points, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.CheckConstraint("phase IN ('deposit', 'hold', 'settle', 'release')", name="known_phase"),
        sa.CheckConstraint("(phase = 'deposit') = (task_id IS NULL)", name="task_unless_deposit"),
        sa.UniqueConstraint("task_id", "phase", name="ledger_each_phase_once"),
    )
    op.create_index("ledger_by_account", "ledger", ["account_id"])
    hold_ends = sa.text("phase IN ('settle', 'release')")
    op.create_index(
        "ledger_hold_ends_once", "ledger", ["task_id"], unique=True, sqlite_where=hold_ends, postgresql_where=hold_ends
    )
    triggers = _triggers_of_postgresql if op.get_bind().dialect.name == "postgresql" else _triggers_of_sqlite
    for trigger in triggers():
        op.execute(trigger)


def _triggers_of_sqlite() -> list[str]:
    return [
        f"""CREATE TRIGGER tasks_move_by_the_table BEFORE UPDATE OF state ON tasks
            WHEN OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN ({MOVES})
            BEGIN SELECT RAISE(ABORT, 'no such move of a task'); END""",
        """CREATE TRIGGER tasks_final_stay BEFORE UPDATE ON tasks
            WHEN OLD.state IN ('completed', 'failed')
            BEGIN SELECT RAISE(ABORT, 'a finished task never changes'); END""",
        """CREATE TRIGGER ledger_not_changed BEFORE UPDATE ON ledger
            BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
        """CREATE TRIGGER ledger_not_deleted BEFORE DELETE ON ledger
            BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    ]


def _triggers_of_postgresql() -> list[str]:
    """As those of SQLite. They raise what breaking a constraint would, so that no caller must tell the two apart."""
    return [
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'integrity_constraint_violation'; END $$""",
        f"""CREATE TRIGGER tasks_move_by_the_table BEFORE UPDATE OF state ON tasks FOR EACH ROW
            WHEN (OLD.state <> NEW.state AND OLD.state || '>' || NEW.state NOT IN ({MOVES}))
            EXECUTE FUNCTION refuse('no such move of a task')""",
        """CREATE TRIGGER tasks_final_stay BEFORE UPDATE ON tasks FOR EACH ROW
            WHEN (OLD.state IN ('completed', 'failed'))
            EXECUTE FUNCTION refuse('a finished task never changes')""",
        """CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE ON ledger FOR EACH ROW
            EXECUTE FUNCTION refuse('the ledger is append-only')""",
    ]
