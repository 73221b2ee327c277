"""The pages say what is true of the code."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from fluxserve.api.dialects.piapi import ERROR_CODES
from fluxserve.api.dialects.segmind.answers import HEADERS, STATUSES
from fluxserve.api.dialects.segmind.requests import Fill
from fluxserve.cli import app
from fluxserve.domain.catalog import MODELS
from fluxserve.tasks import migrate, open_sqlite
from tests.api.conftest import open_door
from tests.api.test_tenants import operations

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]


def test_every_room_is_on_the_page_of_rooms() -> None:
    page = (DOCS / "architecture.md").read_text()

    rooms = [path.name for path in (ROOT / "src" / "fluxserve").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in page] == []


def test_every_file_that_a_page_names_is_there() -> None:
    page = (DOCS / "architecture.md").read_text()

    named = re.findall(r"`([a-z_/]+\.py)`", page)
    assert [name for name in named if not (ROOT / "src" / "fluxserve" / name).exists()] == []


def test_the_piapi_page_has_every_error_code_and_every_model() -> None:
    page = (DOCS / "piapi.md").read_text()

    assert [code for code, number in ERROR_CODES.items() if f"| {number} | `{code}` |" not in page] == []
    assert [name for name in MODELS if f"`Qubico/{name}`" not in page] == []


def test_the_segmind_page_has_every_field_header_and_status() -> None:
    page = (DOCS / "segmind.md").read_text()

    assert [name for name in Fill.model_fields if f"| `{name}` |" not in page] == []
    assert [name for name in HEADERS if f"| `{name}` |" not in page] == []
    assert [number for number in STATUSES.values() if f"| {number} |" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_route_is_on_a_page(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "queue.sqlite")
    migrate(engine)
    async with open_door(engine, tmp_path) as door:
        routes = [(each.method, each.path) for each in await operations(door)]

    pages = {
        "/api/": "piapi.md", "/account/": "piapi.md", "/admin/": "accounts.md", "/v1/images/": "images.md",
        "/v1/chat/": "openai.md", "/v1/models": "openai.md", "/v1/": "segmind.md", "/v2/": "segmind.md",
    }  # fmt: skip
    for method, path in routes:
        if page := next((page for start, page in pages.items() if path.startswith(start)), None):
            text = (DOCS / page).read_text()
            assert re.search(rf"^\| [A-Z, ]*{method}[A-Z, ]* `{re.escape(path)}[`?]", text, re.MULTILINE), (
                method,
                path,
            )


COMMANDS = [
    line
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(\S+=\S+ )*(\.venv/bin/)?fluxserve ", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_on_a_page_is_one_that_there_is(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True) if "=" not in word]
    name, arguments, command = "fluxserve", words[1:], typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        found, inner, arguments = command.resolve_command(command.make_context(name, arguments[:1]), arguments)
        assert inner is not None
        name, command = str(found), inner
    command.make_context(name, arguments)  # which refuses arguments and options that there are not
