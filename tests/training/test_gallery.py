"""The gallery: every cell has its pictures and words, and the sheet is small enough for a repository."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageFont

from training import gallery, measures
from training.evaluate import held_out_scenes
from training.gallery import Cell
from training.world import Pixels, paint


def painted(count: int) -> list[Pixels]:
    pictures = [Image.fromarray(paint(scene)) for scene in held_out_scenes(count)]
    return [np.asarray(picture.filter(ImageFilter.GaussianBlur(1))) for picture in pictures]


def test_there_are_24_prompts_and_each_fits_under_its_picture() -> None:
    face = ImageFont.load_default(size=gallery.FONT_SIZE)
    assert len(set(gallery.PROMPTS)) == 24
    assert max(face.getlength(prompt) for prompt in gallery.PROMPTS) < 250


def test_a_sheet_holds_every_picture_and_stays_small(tmp_path: Path) -> None:
    pictures = painted(24)
    sheet = gallery.contact_sheet(
        [Cell(prompt, (each,)) for prompt, each in zip(gallery.PROMPTS, pictures, strict=True)]
    )
    assert sheet.size == (6 * 256, 4 * 280)
    np.testing.assert_array_equal(np.asarray(sheet)[280:536, 256:512], pictures[7])
    path = tmp_path / "gallery" / "sheet.png"
    gallery.save(sheet, path)
    assert path.stat().st_size < 1_500_000
    again = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(again - np.asarray(sheet)).max() < gallery.LEVEL


def test_a_cells_pictures_stand_side_by_side() -> None:
    pictures = painted(6)
    sheet = gallery.contact_sheet([Cell("one", tuple(pictures[:3])), Cell("another", tuple(pictures[3:]))])
    assert sheet.size == (6 * 256, 280)
    np.testing.assert_array_equal(np.asarray(sheet)[:256, 4 * 256 : 5 * 256], pictures[4])


@pytest.mark.parametrize("member", ["fill", "edit", "variation", "control", "loras"])
def test_every_member_is_asked_for_pictures_that_fill_a_sheet(member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "studio", _Blank)
    cells = gallery.SHEETS[member]()
    face = ImageFont.load_default(size=gallery.FONT_SIZE)
    for cell in cells:
        assert all(picture.shape == (256, 256, 3) for picture in cell.pictures)
        assert face.getlength(cell.words) < 256 * len(cell.pictures)
    gallery.contact_sheet(cells)


class _Blank(measures.Studio):
    """Draws nothing, at once: what is looked at is what it is asked."""

    def __init__(self) -> None:
        pass

    def draw(self, *_asked: object, **_more: object) -> Pixels:
        return np.zeros((256, 256, 3), np.uint8)

    def map_of(self, *_asked: object) -> Pixels:
        return np.zeros((256, 256, 3), np.uint8)
