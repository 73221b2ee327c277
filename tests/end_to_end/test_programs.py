"""Every program on the pages of PiAPI's and OpenAI's doors runs, and so do the commands of the vendor's own pages for
completions and gpt-4o-image, as they stand there but for host, key and the addresses of pictures.
"""

import base64
import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.end_to_end import pages
from tests.end_to_end.programs import javascript, on_page, on_the_web, python, shell, told
from tests.end_to_end.serving import KEY, Server, finished, running
from tests.end_to_end.text_model import relayed, serving

PAGES = ("piapi.md", "openai.md", "images.md")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("programs")
    with serving(folder) as (url, model):
        names = ("gpt-4o-mini", "gpt-3.5-turbo")  # as the pages call them
        models: dict[str, object] = {name: {"upstreams": ["real"], "upstream_model": model} for name in names}
        environment = relayed({"real": {"url": url}}, models)
        with running(folder / "data", FLUXSERVE_FETCH_NETWORKS="127.0.0.1/32", **environment) as server:
            yield server


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("web")
    pages.scene().save(folder / "scene.webp")
    pages.someone().save(folder / "someone.jpg")
    with on_the_web(folder) as address:
        yield address


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat.png", "bear.png"):
        pages.scene().save(tmp_path / name)
    return tmp_path


# ---------------------------------------------------------------- our pages


def programs(language: str) -> list[Any]:
    found = [(page, number, text) for page in PAGES for number, text in enumerate(on_page(page, language))]
    return [pytest.param(text, id=f"{page}-{number}") for page, number, text in found]


@pytest.mark.parametrize("program", programs("python"))
def test_every_program_in_python_runs(server: Server, folder: Path, program: str) -> None:
    ran = python(told(program, server), folder)

    assert ran.returncode == 0, ran.stderr
    for name in re.findall(r'open\(f?"([\w-]+)[^"]*", "wb"\)', program):
        written = list(folder.glob(f"{name}*.png"))
        assert written
        for path in written:
            Image.open(path).load()


@pytest.mark.parametrize("program", programs("js"))
def test_every_program_in_javascript_runs(server: Server, folder: Path, program: str) -> None:
    ran = javascript(told(program, server), folder)

    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", programs("bash"))
def test_every_command_runs(server: Server, folder: Path, command: str) -> None:
    task_id = ""
    if "$TASK_ID" in command:
        with server.client() as client:
            body = {"model": "Qubico/flux1-schnell", "task_type": "txt2img", "input": {"prompt": "a cat"}}
            task_id = client.post("/api/v1/task", json=body).json()["data"]["task_id"]
            finished(client, task_id)
    ran = shell(told(command, server), folder, KEY=KEY, TASK_ID=task_id)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
    assert '"error": {"message"' not in ran.stdout.replace('":', '": '), ran.stdout
    assert not re.search(r'"code": ?4\d\d', ran.stdout), ran.stdout


# ---------------------------------------------------------------- the vendor's pages

CHAT = """
curl {url}/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer {key}" \\
  -d '{{
    "model": "gpt-3.5-turbo",
    "messages": [
      {{
        "role": "system",
        "content": "You are a helpful assistant."
      }},
      {{
        "role": "user",
        "content": "Hello!"
      }}
    ]{more}
  }}'
"""
PICTURE = """
curl --location '{url}/v1/chat/completions' \\
--header 'Content-Type: application/json' \\
--header 'Authorization: Bearer {key}' \\
--data '{{
    "model": "gpt-4o-image",
    "messages": [
        {{
            "role": "user",
            "content": [{images}
                {{
                    "type": "text",
                    "text": "{text}"
                }}
            ]
        }}
    ],
    "stream": true
}}'
"""
IMAGE = """
                {{
                    "type": "image_url",
                    "image_url": {{
                        "url": "{url}"
                    }}
                }},"""


def test_a_completion_of_the_vendors_page_is_answered_whole_and_fetched_again(server: Server, tmp_path: Path) -> None:
    ran = shell(CHAT.format(url=server.url, key=KEY, more="").replace("curl ", "curl -sD head.txt ", 1), tmp_path)
    answer = json.loads(ran.stdout)

    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    ((task_id),) = re.findall(r"x-task-id: (\S+)", (tmp_path / "head.txt").read_text())
    again = shell(f"curl -s --request GET '{server.url}/api/v1/task/{task_id}' --header 'x-api-key: {KEY}'", tmp_path)
    assert json.loads(again.stdout) == answer


def test_a_completion_of_the_vendors_page_is_streamed(server: Server, tmp_path: Path) -> None:
    ran = shell(CHAT.format(url=server.url, key=KEY, more=',\n    "stream": true'), tmp_path)

    # This upstream ends its streams without [DONE], and it is passed on as it came.
    chunks = [json.loads(event.removeprefix("data: ")) for event in ran.stdout.split("\n\n") if event]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"][0]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "draw a cyberpunk city"),
        (("scene.webp",), "Give this cat a detective hat and a monocle"),
        (("someone.jpg", "scene.webp"), "merge two image"),
    ],
    ids=["text to image", "image to image", "several images"],
)
def test_a_picture_of_the_vendors_page_is_drawn(
    server: Server, web: str, tmp_path: Path, names: tuple[str, ...], text: str
) -> None:
    images = "".join(IMAGE.format(url=f"{web}/{name}?w=640&q=90&fm=webp") for name in names)
    ran = shell(PICTURE.format(url=server.url, key=KEY, images=images, text=text), tmp_path)

    *events, end = [event.removeprefix("data: ") for event in ran.stdout.split("\n\n") if event]
    assert end == "[DONE]"
    assert len(re.findall(r"!\[[^]]*\]\(https?://[^)]+\)", ran.stdout)) == 1  # clients search the raw text for it
    ((picture,),) = [
        choice["delta"]["images"]
        for event in events
        for choice in json.loads(event)["choices"]
        if "images" in choice["delta"]
    ]
    image = Image.open(BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    image.load()
    image.save(tmp_path / "picture.png")  # for whoever wants to look
    assert image.size == ((1536, 1024) if len(names) == 2 else (1024, 1024))
    assert json.loads(events[-1])["usage"]["total_tokens"] > 0
