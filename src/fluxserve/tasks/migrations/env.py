"""How Alembic runs here: on the engine it is handed, each migration in one transaction."""

from alembic import context
from sqlalchemy import text

from fluxserve.tasks.schema import metadata

LOCK = 7_346_113  # any number that is ours: servers that start together migrate one after another

with context.config.attributes["engine"].connect() as connection:
    if connection.dialect.name == "postgresql":
        connection.detach()  # from the pool: the lock is the session's, and stays until it ends
        connection.execute(text("SET lock_timeout = 0"))  # the other may have much to do
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK})
        connection.execute(text("RESET lock_timeout"))
        connection.commit()
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
