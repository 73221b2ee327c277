"""How Alembic runs here: on the engine it is handed, each migration in one transaction."""

from alembic import context

from fluxserve.tasks.schema import metadata

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
