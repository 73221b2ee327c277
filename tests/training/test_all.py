"""Everything in order: the parts that others need come first."""

import pytest

from training import all as everything
from training import evaluate, gallery
from training.sitting import device


def test_parts_are_taught_in_the_order_they_need_each_other() -> None:
    names = [stage.name for stage in everything.STAGES]
    for first, then in (
        ("vae", "base"),
        ("text", "base"),
        ("base", "dev"),
        ("dev", "schnell"),
        ("base", "fill, what is known"),
        ("fill, what is known", "fill, guided"),
        ("edit, what was seen", "edit, guided"),
        ("text", "variation"),
        ("dev", "control"),
        ("poses", "control"),
        ("dev", "loras"),
    ):
        assert names.index(first) < names.index(then)


def test_the_family_is_taught_measured_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(everything, "STAGES", (everything.Stage("vae", done.append, on_cpu=60, on_gpu=10),))
    monkeypatch.setattr(evaluate, "evaluate", lambda *given: done.append(given))
    monkeypatch.setattr(gallery, "show", done.append)
    everything.make_family(minutes_scale=0.5)
    drawn_from = ("pairs", "img2img", "fill", "outpaint", "edit", "variation", "control", "loras")
    assert done == [
        5 if device().type == "cuda" else 30,
        (200, ("vae", "schnell", "dev", *drawn_from)),
        tuple(gallery.SHEETS),
    ]
