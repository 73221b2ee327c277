"""Styles: what each LoRA of the catalogue makes of a picture. Each is a known operation on pixels, made to be told from
all others at a glance, and broad enough for the mini autoencoder to keep.

They are in the spirit of the catalogue's names and imitate no one's pictures.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world import Pixels

Floats = NDArray[np.floating[Any]]
Colour = tuple[int, int, int]


# ---------------------------------------------------------------- the brushes


def _gray(picture: Floats) -> Floats:
    """Brightness, (h, w, 1)."""
    brightness: Floats = (picture @ np.array([0.3, 0.59, 0.11], np.float32))[..., None]
    return brightness


def _mixed(one: Floats, other: Floats | Colour, share: float | Floats) -> Floats:
    other = np.asarray(other, np.float32) / 255 if isinstance(other, tuple) else other
    mixed: Floats = one * (1 - share) + other * share
    return mixed


def _toned(picture: Floats, *colours: Colour) -> Floats:
    """Brightness through a scale of colours, dark to light."""
    scale = np.array(colours, np.float32) / 255
    at = _gray(picture)[..., 0].clip(0, 1) * (len(colours) - 1)
    low = at.astype(int).clip(max=len(colours) - 2)
    toned: Floats = scale[low] + (scale[low + 1] - scale[low]) * (at - low)[..., None]
    return toned


def _levels(picture: Floats, count: int) -> Floats:
    """Few flat colours."""
    flat: Floats = np.rint(_blurred(picture, 2) * (count - 1)) / (count - 1)
    return flat


def _blurred(picture: Floats, reach: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), reach), np.float32)


def _edges(picture: Floats, thickness: int) -> Floats:
    """How much of an edge, 0 to 1, (h, w, 1)."""
    gray = _blurred(_gray(picture), 1.5)
    across, down = (cv2.Sobel(gray, cv2.CV_32F, *axes) for axes in ((1, 0), (0, 1)))
    strong = (np.hypot(across, down) > 0.35).astype(np.float32)
    wide = np.asarray(cv2.dilate(strong, np.ones((thickness, thickness), np.uint8)), np.float32)
    return _blurred(wide, 0.8)[..., None]


def _saturated(picture: Floats, by: float) -> Floats:
    gray = _gray(picture)
    return (gray + (picture - gray) * by).clip(0, 1)


def _places(picture: Floats) -> tuple[Floats, Floats]:
    """Across and down, each (h, w, 1), from -1 to 1."""
    height, width = picture.shape[:2]
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    return across[..., None], down[..., None]


def _vignette(picture: Floats, colour: Colour, strength: float) -> Floats:
    across, down = _places(picture)
    return _mixed(picture, colour, strength * ((across**2 + down**2) / 2).clip(0, 1))


def _spots(picture: Floats, colour: Colour, count: int, size: int, seed: int) -> Floats:
    """Round lights at fixed places."""
    height, width = picture.shape[:2]
    rng, light = np.random.default_rng(seed), np.zeros((height, width), np.float32)
    for across, down in rng.random((count, 2)):
        cv2.circle(light, (int(across * width), int(down * height)), size, 1, -1)
    return _mixed(picture, colour, _blurred(light, size / 3)[..., None] * 0.9)


def _stripes(picture: Floats, colour: Colour, period: float, angle: float, strength: float) -> Floats:
    across, down = _places(picture)
    wave = np.sin((across * np.cos(angle) + down * np.sin(angle)) * np.pi * period)
    return _mixed(picture, colour, (wave > 0.3) * np.float32(strength))


def _mosaic(picture: Floats, side: int) -> Floats:
    """Triangles of one colour each, two in a square."""
    height, width = picture.shape[:2]
    tiles = picture.copy()
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = picture[top : top + side, left : left + side]
            rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
            upper = rows + columns < side if (top + left) // side % 2 else rows > columns
            for half in (upper, ~upper):
                if half.any():
                    tiles[top : top + side, left : left + side][half] = part[half].mean(0)
    return tiles


# ---------------------------------------------------------------- the styles


def _anime(picture: Floats) -> Floats:
    return _mixed(_saturated(_levels(picture, 5), 1.5), (20, 20, 40), _edges(picture, 4))


def _art(picture: Floats) -> Floats:
    paint: Floats = cv2.medianBlur((picture * 255).astype(np.uint8), 15).astype(np.float32) / 255
    return _stripes(_mixed(paint, (222, 190, 140), 0.3), (90, 60, 30), 14, 0.8, 0.25)


def _disney(picture: Floats) -> Floats:
    glow = (_saturated(picture, 1.4) * 0.6 + _blurred(picture, 10) * 0.6).clip(0, 1)
    return _spots(_mixed(glow, (255, 200, 225), 0.3), (255, 255, 255), 14, 5, 1)


def _furry(picture: Floats) -> Floats:
    return _stripes(
        _stripes(_mixed(picture, (170, 110, 60), 0.45), (110, 66, 30), 16, 1.2, 0.4), (230, 180, 120), 12, 1.9, 0.3
    )


def _mjv6(picture: Floats) -> Floats:
    return _vignette(
        _mixed(_toned(picture, (8, 30, 44), (20, 100, 120), (245, 160, 90), (255, 230, 190)), picture, 0.35),
        (0, 6, 12),
        0.8,
    )


def _realism(picture: Floats) -> Floats:
    return _vignette(_saturated(picture, 0.25) * 0.85 + 0.06, (30, 30, 30), 0.5)


def _scenery(picture: Floats) -> Floats:
    _, down = _places(picture)
    return _mixed(_mixed(picture, (255, 190, 90), 0.35), (120, 170, 90), ((down + 0.2) * 0.7).clip(0, 0.6))


def _collage(picture: Floats) -> Floats:
    pieces = picture.copy()
    for number, (row, column) in enumerate(np.ndindex(3, 3)):
        box = tuple(
            slice(length * index // 3, length * (index + 1) // 3)
            for length, index in zip(picture.shape, (row, column), strict=False)
        )
        pieces[box] = np.roll(picture[box], number, axis=2) if number % 2 else picture[box] * 0.8 + 0.2
        pieces[box][:4] = pieces[box][:, :4] = 0.95
    return pieces


def _creepcute(picture: Floats) -> Floats:
    return _vignette(_toned(picture, (20, 6, 30), (100, 40, 120), (150, 210, 110), (235, 255, 200)), (10, 0, 16), 0.9)


def _cyberpunk(picture: Floats) -> Floats:
    dark = _toned(picture, (10, 4, 30), (60, 10, 90), (30, 60, 140))
    lit = _mixed(dark, (255, 40, 200), _edges(picture, 7))
    return _mixed(lit, (60, 250, 255), np.roll(_edges(picture, 3), 6, axis=1) * 0.9)


def _deco(picture: Floats) -> Floats:
    across, down = _places(picture)
    rays = (np.sin(np.arctan2(down, across) * 12) > 0).astype(np.float32)
    toned = _toned(_levels(picture, 4), (14, 14, 18), (20, 70, 76), (212, 168, 60), (250, 236, 190))
    return _mixed(toned, (212, 168, 60), rays * 0.3)


def _deep_sea(picture: Floats) -> Floats:
    return _spots(_mixed(picture * 0.7, (0, 70, 150), 0.55), (170, 250, 255), 40, 4, 2)


def _faetastic(picture: Floats) -> Floats:
    return _spots(_mixed(picture, (214, 130, 255), 0.45), (255, 250, 190), 26, 5, 3)


def _fractal(picture: Floats) -> Floats:
    across, down = _places(picture)
    rings = np.sin(np.hypot(across, down) * 22).astype(np.float32) > 0.2
    turned = picture[:, ::-1][..., [1, 2, 0]]
    return np.where(rings, turned, picture)


def _galactixy(picture: Floats) -> Floats:
    across, down = _places(picture)
    night = _mixed(picture * 0.6, (60, 20, 120), (0.75 - 0.35 * (1 - np.hypot(across, down))).clip(0.2, 0.75))
    return _spots(night, (255, 255, 255), 46, 3, 4)


def _geometric(picture: Floats) -> Floats:
    return _mosaic(_saturated(picture, 1.2), 32)


def _graphic(picture: Floats) -> Floats:
    return _toned(_levels(picture, 3), (16, 16, 20), (206, 30, 44), (246, 234, 210))


def _mat_miller(picture: Floats) -> Floats:
    sepia = _toned(picture, (40, 26, 16), (150, 110, 66), (236, 214, 170))
    return _mixed(_stripes(sepia, (40, 26, 16), 20, 0.0, 0.35), (30, 18, 10), _edges(picture, 4))


def _moebius(picture: Floats) -> Floats:
    pastel = _mixed(_levels(picture, 6), (250, 232, 214), 0.5)
    return _mixed(pastel, (60, 50, 90), _edges(picture, 3))


def _isometric(picture: Floats) -> Floats:
    gray = _blurred(_gray(picture), 3)
    raised = (gray - np.roll(gray, (9, 9), axis=(0, 1)))[..., None]
    return (_mixed(picture, (236, 226, 214), 0.35) + raised * 0.7).clip(0, 1)


def _quilling(picture: Floats) -> Floats:
    layers = _levels(_saturated(picture, 1.3), 4)
    shadow = np.roll(_edges(layers, 5), (6, 6), axis=(0, 1))
    return _mixed(_mixed(layers, (255, 250, 240), 0.25), (60, 40, 50), shadow * 0.6)


def _remes(picture: Floats) -> Floats:
    across, down = _places(picture)
    upper = across + down < 0
    flat = _levels(picture, 3)
    return np.where(upper, _toned(flat, (20, 40, 110), (250, 210, 60)), _toned(flat, (190, 30, 40), (250, 236, 214)))


def _mystic(picture: Floats) -> Floats:
    _, down = _places(picture)
    fog = _mixed(_blurred(picture, 3), (70, 180, 170), 0.4)
    return _mixed(fog, (225, 255, 245), (down * 0.8).clip(0, 0.7))


STYLES: dict[str, Callable[[Floats], Floats]] = {
    "anime": _anime,
    "art": _art,
    "disney": _disney,
    "furry": _furry,
    "mjv6": _mjv6,
    "realism": _realism,
    "scenery": _scenery,
    "collage-artstyle": _collage,
    "creepcute": _creepcute,
    "cyberpunk-anime-style": _cyberpunk,
    "deco-pulse": _deco,
    "deep-sea-particle-enhencer": _deep_sea,
    "faetastic-details": _faetastic,
    "fractal-geometry": _fractal,
    "galactixy-illustrations-style": _galactixy,
    "geometric-woman": _geometric,
    "graphic-portrait": _graphic,
    "mat-miller-art": _mat_miller,
    "moebius-style": _moebius,
    "ob3d-isometric-3d-room": _isometric,
    "paper-quilling-and-layering-style": _quilling,
    "remes-abstract-poster-style": _remes,
    "mystic-realism": _mystic,
}


def styled(name: str, pixels: Pixels) -> Pixels:
    """A picture, (h, w, 3), in the style of that name."""
    picture = STYLES[name](pixels.astype(np.float32) / 255)
    levels: Pixels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return levels
