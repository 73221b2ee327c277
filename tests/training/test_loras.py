"""The LoRAs' program: styles that can be told apart, taught into files that the engine reads."""

import itertools

import numpy as np
import pytest
import torch

from fluxserve.domain.catalog import FAMILIES, LORAS
from fluxserve.domain.generation import Lora
from fluxserve.engine.loras import Loras, finder
from fluxserve.engine.plan import Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.weights import Loader
from tests.training.family import MINUTES, Family
from training import loras, world
from training.styles import STYLES, styled

CAT = world.paint(world.one("cat", None, "teal", "big", "centre"))
HOUSE = world.paint(world.one("house", None, "grass", "medium", "centre"))


def test_every_lora_of_the_catalogue_has_a_style() -> None:
    assert set(STYLES) == set(LORAS)


@pytest.mark.parametrize("name", STYLES)
def test_a_style_gives_the_same_picture_of_the_same_size_every_time(name: str) -> None:
    once = styled(name, CAT)
    assert once.shape == CAT.shape
    assert once.dtype == np.uint8
    assert np.array_equal(once, styled(name, CAT))
    assert styled(name, CAT[:192]).shape == (192, 256, 3)


@pytest.mark.parametrize("picture", [CAT, HOUSE], ids=["cat", "house"])
def test_styles_can_be_told_from_each_other_and_from_none(picture: world.Pixels) -> None:
    made = {name: styled(name, picture).astype(float) for name in STYLES} | {"none": picture.astype(float)}
    for one, other in itertools.combinations(made, 2):
        assert np.sqrt(np.square(made[one] - made[other]).mean()) > 12, (one, other)


def test_a_style_is_taught_into_a_file_that_the_engine_puts_on(family: Family) -> None:
    loras.train(1 / 60, ["anime"])
    path = family.folder / "loras" / "anime.safetensors"
    assert path.stat().st_size < 200_000
    sources = Sources(family.folder)
    dev = Loader(FAMILIES["mini"], sources, torch.device("cpu"), [Plan(torch.float32)]).load("dev").own
    engine = Loras(finder({"anime": "mini/loras/anime.safetensors"}, sources, None))
    engine.put_on(dev, Lora("anime", 1.0))
    assert engine.kept(dev) == 1


def test_what_today_s_dev_has_taught_is_not_taught_again(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "STYLES", {"realism": STYLES["realism"]})
    loras.train(MINUTES, [])
    before = (family.folder / "loras" / "realism.safetensors").stat().st_mtime_ns
    loras.train(MINUTES, [])
    assert (family.folder / "loras" / "realism.safetensors").stat().st_mtime_ns == before
