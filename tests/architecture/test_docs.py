"""The pages say what is true of the code."""

import re
from pathlib import Path

import pytest

from fluxserve.api.dialects.piapi import ERROR_CODES
from fluxserve.domain.catalog import MODELS

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []
