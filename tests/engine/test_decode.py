import torch

from fluxserve.engine.decode import to_levels


def test_pixels_are_rounded_to_the_nearest_level_and_cut_at_both_ends() -> None:
    image = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 1 / 255]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_levels(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 128]


def test_rows_and_columns_stay_in_place() -> None:
    image = torch.full((1, 3, 2, 4), -1.0)
    image[0, 2, 1, 3] = 1.0
    pixels = to_levels(image).numpy()
    assert pixels.shape == (2, 4, 3)
    assert pixels[1, 3].tolist() == [0, 0, 255]
    assert pixels.sum() == 255


def test_bfloat16_loses_no_level() -> None:
    levels = torch.arange(256) / 127.5 - 1
    image = levels.to(torch.bfloat16).view(1, 1, 1, 256).expand(1, 3, 1, 256)
    pixels = to_levels(image)[0, :, 0].numpy().astype(int)
    assert abs(pixels - range(256)).max() <= 1
