"""procrastinate on PostgreSQL: jobs deferred and done, without HTTP, keys or credits: the floor of a durable queue.

python procrastinate_run.py ADDRESS work CALLERS            works off jobs until it is killed
python procrastinate_run.py ADDRESS call CALLERS SECONDS    defers them, and prints the seconds of each as JSON
"""

import asyncio
import json
import sys
import time

import procrastinate
from procrastinate.jobs import Status

ADDRESS, PART, CALLERS = sys.argv[1], sys.argv[2], int(sys.argv[3])
POLL_SECONDS = 0.01
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=ADDRESS, max_size=CALLERS + 4))


@app.task(name="draw")
async def draw(prompt: str) -> str:
    return prompt


async def work() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        print("ready", flush=True)
        await app.run_worker_async(concurrency=CALLERS)


async def defer() -> int:
    return await draw.defer_async(prompt="a little red circle on a big blue square")


async def finish() -> None:
    number = await defer()
    is_done = False
    while not is_done:
        await asyncio.sleep(POLL_SECONDS)
        is_done = await app.job_manager.get_job_status_async(number) is Status.SUCCEEDED


async def call(seconds: float) -> None:
    async def again_and_again(act) -> list[float]:
        latencies: list[float] = []
        began = time.perf_counter()

        async def caller() -> None:
            while time.perf_counter() - began < seconds:
                asked = time.perf_counter()
                await act()
                latencies.append(time.perf_counter() - asked)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return latencies

    async with app.open_async():
        done = await again_and_again(finish)
        accepted = await again_and_again(defer)
    print(json.dumps({"done": done, "accepted": accepted}))


asyncio.run(work() if PART == "work" else call(float(sys.argv[4])))
