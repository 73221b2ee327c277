"""The command line. Each of its files has some of the commands; it decides nothing that a room decides."""

import sys

import typer

from fluxserve.cli import doctor, drawing, house, models
from fluxserve.config import SettingsError
from fluxserve.executors.devices import FinderError

app = typer.Typer(help="FLUX image generation on your own machine.", no_args_is_help=True, add_completion=False)
app.add_typer(drawing.commands)
app.add_typer(doctor.commands)
app.add_typer(models.models, name="models")
app.add_typer(house.commands)
app.add_typer(house.accounts, name="accounts")
app.add_typer(house.keys, name="keys")
app.add_typer(house.webhooks, name="webhooks")


def main() -> None:
    try:
        app()
    except (SettingsError, FinderError) as error:
        sys.exit(f"fluxserve: {error}")
