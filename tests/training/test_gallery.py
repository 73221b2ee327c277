"""The gallery: every prompt has its cell, and the sheet is small enough for a repository."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from training import gallery
from training.evaluate import held_out_scenes
from training.world import paint


def test_there_are_24_prompts_and_each_fits_under_its_picture() -> None:
    face = ImageFont.load_default(size=gallery.FONT_SIZE)
    assert len(set(gallery.PROMPTS)) == 24
    assert max(face.getlength(prompt) for prompt in gallery.PROMPTS) < 250


def test_a_sheet_holds_every_picture_and_stays_small(tmp_path: Path) -> None:
    painted = [Image.fromarray(paint(scene)) for scene in held_out_scenes(24)]
    pictures = np.stack([np.asarray(picture.filter(ImageFilter.GaussianBlur(1))) for picture in painted])
    sheet = gallery.contact_sheet(pictures)
    assert sheet.size == (6 * 256, 4 * 280)
    np.testing.assert_array_equal(np.asarray(sheet)[280:536, 256:512], pictures[7])
    path = tmp_path / "gallery" / "sheet.png"
    gallery.save(sheet, path)
    assert path.stat().st_size < 1_500_000
    again = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(again - np.asarray(sheet)).max() < gallery.LEVEL
