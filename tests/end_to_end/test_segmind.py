"""Segmind's door on a real server: the program of the vendor's page, and those of our own."""

import base64
import re
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from tests.end_to_end import pages
from tests.end_to_end.programs import on_page, on_the_web, python, shell, told
from tests.end_to_end.serving import KEY, Server, running, until

PAINTED = (330, 300, 690, 760)

# As the vendor's page has it, but for host, key and the addresses of the pictures. Its `false` is JSON's and no name in
# Python, and it prints JSON, which is answered to those who say that they accept it: see the tests.
SAMPLE = """
import requests
import json

url = "{url}/v1/flux-fill-dev"
headers = {{
 "x-api-key": "{key}",
 "Content-Type": "application/json"
}}

data = {{
 "mask": "{mask}",
 "seed": 985266,
 "image": "{image}",
 "prompt": "Green hair",
 "guidance": 30,
 "megapixels": "1",
 "num_outputs": 1,
 "output_format": "jpg",
 "output_quality": 80,
 "num_inference_steps": 28,
 "disable_safety_checker": false
}}

response = requests.post(url, headers=headers, json=data)

if response.status_code == 200:
 result = response.json()
 print(json.dumps(result, indent=2))
else:
 print(f"Error: {{response.status_code}}")
 print(response.text)
"""


def mask() -> Image.Image:
    image = Image.new("RGB", (1024, 1024))
    ImageDraw.Draw(image).rectangle(PAINTED, "white")
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    pages.scene().save(folder / "image.png")
    mask().save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    with on_the_web(folder) as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("segmind") / "data"
    with running(folder, FLUXSERVE_FETCH_NETWORKS="127.0.0.1/32") as server:
        yield server


def sample(server: Server, web: str) -> str:
    written = SAMPLE.format(url=server.url, key=KEY, mask=f"{web}/mask.png", image=f"{web}/image.png")
    return f"false = False\n{written}"


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def outside_of_the_mask_nothing_changed(picture: Image.Image, *, most: float) -> bool:
    """By `most` of 255 levels on average: what JPEG and WebP make of it. Near the mask's edge it may be more."""
    left, top, right, bottom = PAINTED
    far = Image.new("L", picture.size, 255)
    ImageDraw.Draw(far).rectangle((left - 16, top - 16, right + 16, bottom + 16), 0)
    difference = ImageChops.difference(picture.convert("RGB"), pages.scene())
    return max(ImageStat.Stat(difference, far).mean) <= most


def inside(picture: Image.Image) -> list[float]:
    """The mean red, green and blue in the middle of what was painted."""
    return ImageStat.Stat(picture.convert("RGB").crop((430, 430, 590, 630))).mean


def test_the_vendors_program_runs_as_it_is_where_it_accepts_json(
    server: Server, web: str, folder: Path, tmp_path: Path
) -> None:
    ours = '"Accept": "application/json",\n "x-api-key"'
    ran = python(sample(server, web).replace('"x-api-key"', ours), folder)

    assert ran.returncode == 0, ran.stderr
    (text,) = re.findall(r'"image": "([^"]+)"', ran.stdout)
    picture = opened(base64.b64decode(text))
    picture.save(tmp_path / "green-hair.png")  # for whoever wants to look
    assert (picture.format, picture.size) == ("JPEG", (1024, 1024))
    assert outside_of_the_mask_nothing_changed(picture, most=3)


@pytest.mark.parametrize(("wanted", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_the_vendors_program_gets_a_picture_in_each_format(
    server: Server, web: str, folder: Path, wanted: str, kind: str, tmp_path: Path
) -> None:
    program = sample(server, web).replace('"output_format": "jpg"', f'"output_format": "{wanted}"')
    program = program.replace(" result = response.json()\n print(json.dumps(result, indent=2))", (
        f" open({str(tmp_path / 'picture')!r}, 'wb').write(response.content)\n print(dict(response.headers))"
    ))  # fmt: skip
    ran = python(program, folder)

    assert ran.returncode == 0, ran.stderr
    headers = {name.lower(): value for name, value in re.findall(r"'([\w-]+)': '([^']*)'", ran.stdout)}
    picture = opened((tmp_path / "picture").read_bytes())
    picture.save(tmp_path / f"{wanted}.png")
    assert (picture.format, picture.size) == (kind, (1024, 1024))
    assert headers["content-type"] == f"image/{kind.lower()}"
    assert (headers["x-seed-value"], headers["x-cost"]) == ("985266", "0.02")
    assert float(headers["x-generation-time"]) > 0
    assert outside_of_the_mask_nothing_changed(picture, most=0 if wanted == "png" else 3)
    changed = ImageChops.difference(picture.convert("RGB"), pages.scene()).crop(PAINTED)
    assert max(ImageStat.Stat(changed).mean) > 10


@pytest.mark.parametrize(("prompt", "channel"), [("a blue circle", 2), ("a red circle", 0)])
def test_what_is_asked_is_in_the_mask(server: Server, prompt: str, channel: int, tmp_path: Path) -> None:
    texts = {"prompt": prompt, "seed": "3", "output_format": "png"}
    pictures = {"image": _png(pages.scene()), "mask": _png(mask())}
    with server.client() as client:
        answer = client.post("/v1/flux-fill-dev", data=texts, files=pictures, timeout=60)

    assert answer.status_code == 200, answer.text
    picture = opened(answer.content)
    picture.save(tmp_path / "picture.png")
    assert outside_of_the_mask_nothing_changed(picture, most=0)
    colours = inside(picture)
    assert colours.index(max(colours)) == channel, colours


def test_four_pictures_of_a_quarter_of_the_size_with_an_alpha_for_a_mask(server: Server) -> None:
    image = pages.scene().convert("RGBA")
    image.paste((0, 0, 0, 0), PAINTED)
    fields = {"prompt": "a blue circle", "image": base64.b64encode(_png(image)).decode(), "num_outputs": 4}
    with server.client() as client:
        answer = client.post("/v1/flux-fill-dev", json={**fields, "megapixels": "0.25", "base64": True}, timeout=60)

    pictures = [opened(base64.b64decode(text)) for text in answer.json()["images"]]
    assert [picture.size for picture in pictures] == [(512, 512)] * 4
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert answer.headers["x-cost"] == "0.08"


def test_who_hangs_up_is_drawn_nothing_and_pays_nothing(server: Server) -> None:
    fields = {"prompt": "a blue circle", "num_inference_steps": 50, "num_outputs": 4}
    pictures = {"image": _png(pages.scene()), "mask": _png(mask())}
    texts = {name: str(value) for name, value in fields.items()}
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/flux-fill-dev", data=texts, files=pictures, timeout=0.5)

    ended = "SELECT state, error_code FROM tasks ORDER BY number DESC LIMIT 1"
    until(lambda: server.rows(ended) == [("failed", "cancelled")], 30, "the task is cancelled")
    assert server.rows("SELECT SUM(frozen) FROM accounts") == [(0,)]


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# ---------------------------------------------------------------- our own page


@pytest.mark.parametrize("program", on_page("segmind.md", "python"))
def test_every_program_on_our_page_runs(server: Server, folder: Path, tmp_path: Path, program: str) -> None:
    for name in ("image.png", "mask.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    ran = python(told(program, server), tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert opened((tmp_path / "filled.jpg").read_bytes()).size == (1024, 1024)


@pytest.mark.parametrize("command", on_page("segmind.md", "bash"))
def test_every_command_on_our_page_runs(server: Server, folder: Path, tmp_path: Path, command: str) -> None:
    for name in ("image.png", "mask.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    mended = told(command, server).replace("https://example.com/", "")
    ran = shell(mended, tmp_path, KEY=KEY, REQUEST_ID=_completed(server))

    assert ran.returncode == 0, ran.stderr
    assert '"error"' not in ran.stdout, ran.stdout


def _completed(server: Server) -> str:
    fields = {"prompt": "a blue circle", "num_inference_steps": "1"}
    pictures = {"image": _png(pages.scene()), "mask": _png(mask())}
    with server.client() as client:
        made = client.post("/v2/flux-fill-dev", data=fields, files=pictures).json()
        while client.get(made["status_url"]).json()["status"] != "COMPLETED":
            time.sleep(0.05)
        request_id: str = made["request_id"]
        return request_id
