"""The model card: its words stay, its tables follow the measurements."""

from pathlib import Path

import pytest

from training import card
from training.card import Record, Score
from training.sitting import FAMILY

MACHINE = {"CPU": "Abacus", "torch": "3"}


def record(member: str, score: float) -> Record:
    return Record(member, f"measure {member}", MACHINE, (Score("place", "%", 95, score),))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "CARD", tmp_path / "models" / "README.md")
    monkeypatch.setattr(card, "RESULTS", tmp_path / "results" / "scores.json")


def test_the_table_says_by_how_much_a_bound_is_missed() -> None:
    rows = card.table([record("dev", 91.5), record("schnell", 95.0)]).splitlines()
    assert rows[2] == "| dev | place | 95 % | 91.5 % | 3.5 % |"
    assert rows[3] == "| schnell | place | 95 % | 95.0 % | — |"


def test_a_measure_without_a_bound_misses_nothing() -> None:
    assert Score("ceiling", "%", None, 10.0).missing == 0.0


def test_a_new_measurement_replaces_only_its_own_member() -> None:
    card.publish([record("dev", 50.0), record("schnell", 60.0)])
    card.publish([record("dev", 70.0)])
    text = card.CARD.read_text()
    assert "| dev | place | 95 % | 70.0 % |" in text
    assert "| schnell | place | 95 % | 60.0 % |" in text
    assert "50.0 %" not in text


def test_words_written_into_the_card_by_hand_stay() -> None:
    card.publish([record("dev", 50.0)])
    card.CARD.write_text(card.CARD.read_text().replace("# mini:", "# The mini family:"))
    card.publish([record("dev", 70.0)])
    text = card.CARD.read_text()
    assert text.startswith("# The mini family:")
    assert text.count("| dev | place |") == 1


def test_the_card_names_every_thing_and_its_source() -> None:
    card.publish([])
    text = card.CARD.read_text()
    assert "spiderman" in text
    assert "SIL Open Font License" in text


def test_a_card_without_markers_is_refused() -> None:
    card.CARD.parent.mkdir()
    card.CARD.write_text("# mini\n")
    with pytest.raises(ValueError, match="markers"):
        card.publish([record("dev", 50.0)])


def test_the_family_that_ships_is_as_small_as_the_card_says() -> None:
    sizes = [file.stat().st_size for file in FAMILY.rglob("*.safetensors")]
    assert sizes
    assert max(sizes) <= 16e6
    assert sum(sizes) <= 72e6
