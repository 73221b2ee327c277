"""Open a database with its tables up to date, by Alembic's numbered migrations."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from fluxserve.tasks.database import Database
from fluxserve.tasks.engines import DatabaseError, open_postgresql, open_sqlite, refuse_unsafe


def open_database(address: str | None, path: Path) -> Database:
    """The PostgreSQL database at `address`, or else the SQLite one at `path`: safe, and up to date.

    Raises `DatabaseError`.
    """
    engine = open_sqlite(path) if address is None else open_postgresql(address)
    try:
        refuse_unsafe(engine)
        migrate(engine)
    except DBAPIError as error:
        engine.dispose()
        raise DatabaseError(f"the database can't be used: {' '.join(str(error.orig).split())}") from None
    except DatabaseError:
        engine.dispose()
        raise
    return Database(engine)


def migrate(engine: Engine, to: str = "head") -> None:
    """Run the migrations that this database has not had, up to the one numbered `to`; each is one transaction."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    settings.attributes["engine"] = engine
    command.upgrade(settings, to)
