import torch

from fluxserve.engine.latents import noise, pack, positions, unpack

CPU = torch.device("cpu")


def test_packing_gives_a_token_the_four_latents_of_its_square() -> None:
    latents = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (1, 6, 8)
    row, column = 1, 2
    square = latents[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert torch.equal(tokens[0, row * 3 + column], square.flatten())


def test_unpacking_undoes_packing() -> None:
    latents = torch.randn(1, 5, 6, 10)
    assert torch.equal(unpack(pack(latents), rows=3, columns=5), latents)


def test_a_seed_names_its_noise() -> None:
    def drawn(seed: int) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(seed)
        return noise(generator, channels=4, rows=8, columns=8, device=CPU, dtype=torch.float32)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_positions_go_row_by_row() -> None:
    assert positions(2, 3).tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 0, 2],
        [0, 1, 0], [0, 1, 1], [0, 1, 2],
    ]  # fmt: skip
