"""The way of the first picture, as a new user goes it."""

from io import BytesIO

from PIL import Image

from tests.end_to_end.serving import Server, body, finished


def test_the_example_of_the_vendors_page_draws_a_picture_of_the_asked_size(server: Server) -> None:
    with server.client() as client:
        created = client.post("/api/v1/task", json=body(width=1024, height=1024, model="Qubico/flux1-dev"))
        task = finished(client, created.json()["data"]["task_id"])
        picture = client.get(task["output"]["image_url"])

    assert task["status"] == "completed"
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(BytesIO(picture.content)).size == (1024, 1024)


def test_the_same_seed_draws_the_same_bytes(server: Server) -> None:
    with server.client() as client:
        tasks = [client.post("/api/v1/task", json=body(seed=7)).json()["data"] for _ in range(2)]
        urls = [finished(client, task["task_id"])["output"]["image_url"] for task in tasks]
        first, second = (client.get(url).content for url in urls)

    assert first == second


def test_a_picture_is_drawn_over_the_one_before(server: Server) -> None:
    with server.client() as client:
        first = finished(
            client, client.post("/api/v1/task", json=body(width=512, height=256)).json()["data"]["task_id"]
        )
        over = {
            "model": "Qubico/flux1-dev",
            "task_type": "img2img",
            "input": {"prompt": "a bear", "image": first["output"]["image_url"], "denoise": 0.6, "steps": 10},
        }
        second = finished(client, client.post("/api/v1/task", json=over).json()["data"]["task_id"])
        picture = client.get(second["output"]["image_url"])

    assert Image.open(BytesIO(picture.content)).size == (512, 256)
    assert server.rows("SELECT COUNT(*) FROM inputs JOIN tasks ON tasks.id = task_id WHERE ended_at IS NULL") == [(0,)]
