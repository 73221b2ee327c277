"""The table of moves, and the page that shows it."""

from pathlib import Path

from fluxserve.domain.task import FIRST_STATES, MOVES, Move, State, allowed_moves

PAGE = Path(__file__).parents[2] / "docs" / "states.md"


def test_final_states_are_never_left() -> None:
    assert not any(before.is_final for before, _ in allowed_moves())


def test_every_state_can_be_reached() -> None:
    assert {after for _, after in allowed_moves()} | set(FIRST_STATES) == set(State)


def test_every_move_is_in_the_table() -> None:
    assert set(MOVES) == set(Move)


def test_the_page_of_states_shows_the_table_as_it_is() -> None:
    rows = [
        f"| {move} | {', '.join(befores)} | {after} | {meaning} |" for move, (befores, after, meaning) in MOVES.items()
    ]
    assert "\n".join(rows) in PAGE.read_text()
