"""The tables, as code sees them. Migrations make them; a test proves the two equal.

Times are unix seconds (float), credits are integer points. The triggers that guard final states and the ledger are in
the migrations.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from fluxserve.domain.task import PUBLIC

metadata = MetaData()
_points = BigInteger().with_variant(Integer, "sqlite")
_serial = BigInteger().with_variant(Integer, "sqlite")

# A query must say this, word for word, for the database to know that the index of an account's open tasks will do.
# Else it goes through the tasks of all accounts.
IS_OPEN = text("state IN ('staged', 'pending', 'processing')")
_HAS_DEADLINE = text("deadline IS NOT NULL AND state IN ('staged', 'pending', 'processing')")
_TO_SEND = text("next_at IS NOT NULL")
_IS_UNDER_WAY = text("lease_until IS NOT NULL")
_OF_COMPLETION = text("completion_id IS NOT NULL")
_ENDS = text("phase IN ('settle', 'release')")
_ZERO = text("0")

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("balance", _points, nullable=False),  # can still be spent
    Column("frozen", _points, nullable=False),  # held for tasks and completions that are not finished
    Column("max_concurrent", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("served", _points, nullable=False, server_default=_ZERO),  # work that it was given, by which turns go
    CheckConstraint("balance >= 0", name="balance_not_negative"),
    CheckConstraint("frozen >= 0", name="frozen_not_negative"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),  # the public half, by which a key is found
    Column("account_id", String(36), ForeignKey("accounts.id"), nullable=False),
    Column("key_hash", LargeBinary(32), nullable=False),  # SHA-256 of the whole key
    Column("is_first", Boolean, nullable=False),  # the one that settings or the first start made
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("name", Text, nullable=False, server_default=""),
)

tasks = Table(
    "tasks",
    metadata,
    Column("number", _serial, primary_key=True),  # order of arrival
    Column("id", String(36), nullable=False, unique=True),
    Column("account_id", String(36), ForeignKey("accounts.id"), nullable=False),
    Column("request", Text, nullable=False),  # JSON: what the door echoes
    Column("generation", Text, nullable=False),  # JSON: what is drawn
    Column("state", String(10), nullable=False),
    Column("price", _points, nullable=False),
    Column("attempt", Integer, nullable=False),  # grows at each claim; fences late workers
    Column("losses", Integer, nullable=False),
    Column("lease_until", Float),
    Column("step", Integer),  # of the attempt that runs; null until it has begun
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("cancel_wished_at", Float),  # a mark, not a state: heeded by the worker between steps
    Column("steps", Integer),  # of which `step` are done
    Column("api_key_id", String(16)),  # that it came with
    Column("model", Text, nullable=False, server_default=""),  # of the generation
    Column("pool", String(36), nullable=False, server_default=PUBLIC),  # whose workers draw it
    Column("work", _points, nullable=False, server_default=_ZERO),  # predicted: pixels times steps
    Column("turn", _points),  # where the turns of all accounts stood when it was claimed, unless it was early
    Column("deadline", Float),
    Column("cancel_code", Text),  # why a running one is to be stopped: it becomes the error's code
    Column("version", Integer, nullable=False, server_default=_ZERO),  # grows with every change that a caller can see
    Column("webhook_url", Text),
    Column("webhook_secret", Text),
    CheckConstraint("state IN ('staged', 'pending', 'processing', 'completed', 'failed')", name="known_state"),
    CheckConstraint("(state = 'processing') = (lease_until IS NOT NULL)", name="lease_while_processing"),
    CheckConstraint("(state IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name="ended_when_final"),
    Index("tasks_by_state", "state", "number"),
    Index("tasks_by_account", "account_id", "number"),
    Index("tasks_by_turn", "turn"),
    Index("tasks_by_deadline", "deadline", sqlite_where=_HAS_DEADLINE, postgresql_where=_HAS_DEADLINE),
    Index(
        "tasks_open_by_account",
        "account_id",
        "state",
        "number",
        sqlite_where=IS_OPEN,
        postgresql_where=IS_OPEN,
    ),
)

outputs = Table(
    "outputs",
    metadata,
    Column("id", String(32), primary_key=True),  # 128 random bits: knowing it is the right to fetch
    Column("task_id", String(36), ForeignKey("tasks.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("swept_at", Float),
    UniqueConstraint("task_id", "position", name="outputs_once"),
    Index(
        "outputs_to_sweep",
        "expires_at",
        sqlite_where=text("swept_at IS NULL"),
        postgresql_where=text("swept_at IS NULL"),
    ),
)

inputs = Table(  # callers' pictures on the shelf that a task is drawn from; a row goes when its bytes do
    "inputs",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("task_id", String(36), ForeignKey("tasks.id"), nullable=False),
)

uploads = Table(  # callers' pictures that wait at an address of ours to be asked for
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),  # 128 random bits, as an output's
    Column("account_id", String(36), ForeignKey("accounts.id"), nullable=False),
    Column("key", String(40), nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("uploads_by_expiry", "expires_at"),
    Index("uploads_by_account", "account_id"),
)

previews = Table(  # how a task that is being drawn looks so far
    "previews",
    metadata,
    Column("task_id", String(36), ForeignKey("tasks.id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),  # a small PNG
)

completions = Table(  # chat completions, from their hold to their end
    "completions",
    metadata,
    Column("number", _serial, primary_key=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("account_id", String(36), ForeignKey("accounts.id"), nullable=False),
    Column("api_key_id", String(16)),  # that it came with
    Column("model", Text, nullable=False),
    Column("state", String(10), nullable=False),
    Column("held", _points, nullable=False),  # the most that it may cost
    Column("price", _points),  # what it did cost; null while it runs, and if it failed
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("lease_until", Float),  # after which its server is taken for dead
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("error_code", Text),  # why it is not whole, or failed
    Column("error_message", Text),
    CheckConstraint("state IN ('processing', 'completed', 'failed')", name="known_state"),
    CheckConstraint("(state = 'processing') = (lease_until IS NOT NULL)", name="lease_while_processing"),
    CheckConstraint("(state IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name="ended_when_final"),
    CheckConstraint("(state = 'completed') = (price IS NOT NULL)", name="price_of_the_completed"),
    CheckConstraint("held >= 0 AND price >= 0 AND price <= held", name="never_above_the_hold"),
    CheckConstraint("state <> 'failed' OR error_code IS NOT NULL", name="failed_says_why"),
    Index("completions_by_account", "account_id", "number"),
    Index("completions_under_way", "lease_until", sqlite_where=_IS_UNDER_WAY, postgresql_where=_IS_UNDER_WAY),
)

answers = Table(  # of completions, as long as they are kept to be fetched again
    "answers",
    metadata,
    Column("completion_id", String(36), ForeignKey("completions.id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),  # a chat.completion object in JSON
    Column("expires_at", Float, nullable=False),
    Index("answers_by_expiry", "expires_at"),
)

idempotency_keys = Table(  # what a caller who repeats a request is told: the task, upload or completion that it made
    "idempotency_keys",
    metadata,
    Column("account_id", String(36), ForeignKey("accounts.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_hash", LargeBinary(32), nullable=False),
    Column("task_id", String(36), ForeignKey("tasks.id")),
    Column("first_state", String(10)),
    Column("upload_id", String(32)),
    Column("created_at", Float, nullable=False),
    Column("completion_id", String(36), ForeignKey("completions.id")),
    CheckConstraint(
        "(CASE WHEN task_id IS NULL THEN 0 ELSE 1 END) + (CASE WHEN upload_id IS NULL THEN 0 ELSE 1 END)"
        " + (CASE WHEN completion_id IS NULL THEN 0 ELSE 1 END) = 1",
        name="made_one_thing",
    ),
    CheckConstraint("(task_id IS NULL) = (first_state IS NULL)", name="state_of_a_task"),
    Index("idempotency_keys_by_age", "created_at"),
    Index(
        "idempotency_keys_of_completions", "completion_id", sqlite_where=_OF_COMPLETION, postgresql_where=_OF_COMPLETION
    ),
)

operator_keys = Table(  # the same for the operator's requests, which are no account's
    "operator_keys",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("body_hash", LargeBinary(32), nullable=False),
    Column("answer", Text, nullable=False),  # JSON, without anything secret
    Column("created_at", Float, nullable=False),
    Index("operator_keys_by_age", "created_at"),
)

webhooks = Table(  # one for each finished task whose caller wants to hear of it
    "webhooks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("task_id", String(36), ForeignKey("tasks.id"), nullable=False, unique=True),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("origin", Text, nullable=False),  # scheme, host and port: receivers that share it wait for each other
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float),  # null once it is delivered or given up
    Column("delivered_at", Float),
    Index("webhooks_due", "origin", "next_at", sqlite_where=_TO_SEND, postgresql_where=_TO_SEND),
)

deliveries = Table(  # each attempt to send one
    "deliveries",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("webhook_id", String(36), ForeignKey("webhooks.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("status", Integer),  # HTTP's; null where there was no answer
    Column("error", Text),
    Index("deliveries_by_webhook", "webhook_id"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("account_id", String(36), ForeignKey("accounts.id"), nullable=False),
    Column("task_id", String(36), ForeignKey("tasks.id")),
    Column("phase", String(8), nullable=False),
    Column("balance_change", _points, nullable=False),
    Column("frozen_change", _points, nullable=False),
    Column("at", Float, nullable=False),
    Column("completion_id", String(36), ForeignKey("completions.id")),
    CheckConstraint("phase IN ('deposit', 'hold', 'settle', 'release')", name="known_phase"),
    CheckConstraint("(phase = 'deposit') = (task_id IS NULL AND completion_id IS NULL)", name="of_one_thing"),
    CheckConstraint("task_id IS NULL OR completion_id IS NULL", name="not_of_two_things"),
    Index("ledger_by_account", "account_id"),
    UniqueConstraint("task_id", "phase", name="ledger_each_phase_once"),
    UniqueConstraint("completion_id", "phase", name="ledger_each_phase_of_a_completion_once"),
    # A hold ends once: settled or released, never both.
    Index("ledger_hold_ends_once", "task_id", unique=True, sqlite_where=_ENDS, postgresql_where=_ENDS),
    Index(
        "ledger_hold_of_a_completion_ends_once",
        "completion_id",
        unique=True,
        sqlite_where=_ENDS,
        postgresql_where=_ENDS,
    ),
)
