"""Chat completions: what each holds and costs, their answers, and their rows of the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

points = sa.BigInteger().with_variant(sa.Integer, "sqlite")
under_way = sa.text("lease_until IS NOT NULL")
of_completion = sa.text("completion_id IS NOT NULL")
hold_ends = sa.text("phase IN ('settle', 'release')")
MADE_ONE_THING = (
    "(CASE WHEN task_id IS NULL THEN 0 ELSE 1 END) + (CASE WHEN upload_id IS NULL THEN 0 ELSE 1 END)"
    " + (CASE WHEN completion_id IS NULL THEN 0 ELSE 1 END) = 1"
)
OF_ONE_THING = "(phase = 'deposit') = (task_id IS NULL AND completion_id IS NULL)"
NOT_OF_TWO_THINGS = "task_id IS NULL OR completion_id IS NULL"


def upgrade() -> None:
    op.create_table(
        "completions",
        sa.Column("number", points, primary_key=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("account_id", sa.String(36), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("api_key_id", sa.String(16)),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("held", points, nullable=False),
        sa.Column("price", points),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("lease_until", sa.Float),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.CheckConstraint("state IN ('processing', 'completed', 'failed')", name="known_state"),
        sa.CheckConstraint("(state = 'processing') = (lease_until IS NOT NULL)", name="lease_while_processing"),
        sa.CheckConstraint("(state IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name="ended_when_final"),
        sa.CheckConstraint("(state = 'completed') = (price IS NOT NULL)", name="price_of_the_completed"),
        sa.CheckConstraint("held >= 0 AND price >= 0 AND price <= held", name="never_above_the_hold"),
        sa.CheckConstraint("state <> 'failed' OR error_code IS NOT NULL", name="failed_says_why"),
    )
    op.create_index("completions_by_account", "completions", ["account_id", "number"])
    op.create_index(
        "completions_under_way", "completions", ["lease_until"], sqlite_where=under_way, postgresql_where=under_way
    )
    op.create_table(
        "answers",
        sa.Column("completion_id", sa.String(36), sa.ForeignKey("completions.id"), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index("answers_by_expiry", "answers", ["expires_at"])
    with op.batch_alter_table("idempotency_keys") as keys:  # SQLite makes the table anew
        keys.drop_constraint("made_one_thing", type_="check")
        keys.add_column(sa.Column("completion_id", sa.String(36)))
        keys.create_foreign_key("idempotency_keys_completion_id_fkey", "completions", ["completion_id"], ["id"])
        keys.create_check_constraint("made_one_thing", sa.text(MADE_ONE_THING))
    op.create_index(
        "idempotency_keys_of_completions",
        "idempotency_keys",
        ["completion_id"],
        sqlite_where=of_completion,
        postgresql_where=of_completion,
    )
    if op.get_bind().dialect.name == "postgresql":
        _widen_ledger_of_postgresql()
    else:
        _make_ledger_of_sqlite_anew()
    op.create_index(
        "ledger_hold_of_a_completion_ends_once",
        "ledger",
        ["completion_id"],
        unique=True,
        sqlite_where=hold_ends,
        postgresql_where=hold_ends,
    )
    triggers = _triggers_of_postgresql if op.get_bind().dialect.name == "postgresql" else _triggers_of_sqlite
    for trigger in triggers():
        op.execute(trigger)


def _widen_ledger_of_postgresql() -> None:
    op.add_column("ledger", sa.Column("completion_id", sa.String(36), sa.ForeignKey("completions.id")))
    op.drop_constraint("task_unless_deposit", "ledger", type_="check")
    op.create_check_constraint("of_one_thing", "ledger", sa.text(OF_ONE_THING))
    op.create_check_constraint("not_of_two_things", "ledger", sa.text(NOT_OF_TWO_THINGS))
    op.create_unique_constraint("ledger_each_phase_of_a_completion_once", "ledger", ["completion_id", "phase"])


def _make_ledger_of_sqlite_anew() -> None:
    """It can't change a table's constraints. The old table's indexes and triggers go with it."""
    op.create_table(
        "ledger_anew",
        sa.Column("id", points, primary_key=True),
        sa.Column("account_id", sa.String(36), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("task_id", sa.String(36), sa.ForeignKey("tasks.id")),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("balance_change", points, nullable=False),
        sa.Column("frozen_change", points, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("completion_id", sa.String(36), sa.ForeignKey("completions.id")),
        sa.CheckConstraint("phase IN ('deposit', 'hold', 'settle', 'release')", name="known_phase"),
        sa.CheckConstraint(OF_ONE_THING, name="of_one_thing"),
        sa.CheckConstraint(NOT_OF_TWO_THINGS, name="not_of_two_things"),
        sa.UniqueConstraint("task_id", "phase", name="ledger_each_phase_once"),
        sa.UniqueConstraint("completion_id", "phase", name="ledger_each_phase_of_a_completion_once"),
    )
    op.execute(
        "INSERT INTO ledger_anew (id, account_id, task_id, phase, balance_change, frozen_change, at)"
        " SELECT id, account_id, task_id, phase, balance_change, frozen_change, at FROM ledger"
    )
    op.drop_table("ledger")
    op.rename_table("ledger_anew", "ledger")
    op.create_index("ledger_by_account", "ledger", ["account_id"])
    op.create_index("ledger_hold_ends_once", "ledger", ["task_id"], unique=True, sqlite_where=hold_ends)


def _triggers_of_sqlite() -> list[str]:
    return [
        """CREATE TRIGGER ledger_not_changed BEFORE UPDATE ON ledger
            BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
        """CREATE TRIGGER ledger_not_deleted BEFORE DELETE ON ledger
            BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
        """CREATE TRIGGER completions_final_stay BEFORE UPDATE ON completions
            WHEN OLD.state IN ('completed', 'failed')
            BEGIN SELECT RAISE(ABORT, 'a finished completion never changes'); END""",
        """CREATE TRIGGER completions_hold_stays BEFORE UPDATE ON completions
            WHEN OLD.held <> NEW.held OR OLD.account_id <> NEW.account_id
            BEGIN SELECT RAISE(ABORT, 'what a completion holds never changes'); END""",
    ]


def _triggers_of_postgresql() -> list[str]:
    return [
        """CREATE TRIGGER completions_final_stay BEFORE UPDATE ON completions FOR EACH ROW
            WHEN (OLD.state IN ('completed', 'failed'))
            EXECUTE FUNCTION refuse('a finished completion never changes')""",
        """CREATE TRIGGER completions_hold_stays BEFORE UPDATE ON completions FOR EACH ROW
            WHEN (OLD.held <> NEW.held OR OLD.account_id <> NEW.account_id)
            EXECUTE FUNCTION refuse('what a completion holds never changes')""",
    ]
