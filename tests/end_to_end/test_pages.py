"""Every example of the vendor's pages, sent as it stands, is completed by the models that ship."""

from io import BytesIO
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL import Image, ImageChops

from fluxserve.domain.catalog import abilities
from tests.end_to_end import pages
from tests.end_to_end.pages import Example
from tests.end_to_end.serving import Server, finished

EXAMPLES = [each for each in (*pages.EXAMPLES, *pages.UNSHOWN) if each.needs <= abilities("mini")]


def results(server: Server, example: Example) -> list[Image.Image]:
    with server.client() as client:
        answer = client.post("/api/v1/task", json=example.body)
        assert answer.status_code == 200, answer.text
        data = finished(client, answer.json()["data"]["task_id"])
        assert data["status"] == "completed", data["error"]
        urls = data["output"].get("image_urls") or [data["output"]["image_url"]]
        return [_opened(client, url) for url in urls]


def _opened(client: httpx.Client, url: str) -> Image.Image:
    image = Image.open(BytesIO(client.get(url).content))
    image.load()
    return image


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_is_completed_with_pictures_of_its_size(server: Server, example: Example, tmp_path: Path) -> None:
    pictures = results(server, example)
    assert [picture.size for picture in pictures] == [example.size] * example.pictures
    assert len({picture.tobytes() for picture in pictures}) == example.pictures
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{example.name}-{number}.png")  # for whoever wants to look


def test_what_is_not_painted_over_stays_as_it_is(server: Server) -> None:
    example = next(each for each in EXAMPLES if each.name == "fill-inpaint")
    (picture,) = results(server, example)
    changed = ImageChops.difference(picture.convert("RGB"), pages.scene()).getbbox()
    assert changed is not None
    assert changed[0] >= 330
    assert changed[1] >= 300
    assert changed[2] <= 691
    assert changed[3] <= 761


def test_a_picture_grows_and_its_own_part_stays_as_it_is(server: Server) -> None:
    example = next(each for each in EXAMPLES if each.name == "fill-outpaint")
    (picture,) = results(server, example)
    own = picture.convert("RGB").crop((500, 0, 1524, 1024))
    assert ImageChops.difference(own, pages.painted_over()).getbbox() is None
