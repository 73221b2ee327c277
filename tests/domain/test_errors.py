"""Errors: one tree, drawn at the top of its file, each with a code of its own."""

import pytest

from fluxserve.domain import errors
from fluxserve.domain.errors import FluxserveError, InvalidInput, NotEnoughCredits, TooMany, shown

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FluxserveError)]


def test_every_error_has_a_code_of_its_own() -> None:
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_the_drawn_tree_shows_every_error(kind: type[FluxserveError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_an_invalid_input_names_the_field_the_value_and_what_is_allowed() -> None:
    assert InvalidInput("input.width", 5000, "allowed is 64 to 4096").message == (
        "input.width: 5000 is not allowed; allowed is 64 to 4096"
    )


def test_refusals_carry_their_figures() -> None:
    assert "20000" in NotEnoughCredits(20_000, 7).message
    assert "7" in NotEnoughCredits(20_000, 7).message
    assert TooMany("full", 5).retry_after == 5


def test_a_value_in_a_message_is_short_and_on_one_line() -> None:
    assert shown("a\nb\x1b[31m\u2028") == r"'a\nb\x1b[31m\u2028'"
    assert len(shown("x" * 1000)) == 80
