"""procrastinate on PostgreSQL: jobs deferred and done, without HTTP, keys or credits: the floor of a durable queue.

python procrastinate_run.py ADDRESS CALLERS SECONDS
"""

import asyncio
import json
import sys
import time

import procrastinate

ADDRESS, CALLERS, SECONDS = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=ADDRESS, max_size=CALLERS + 4))
done: dict[int, asyncio.Event] = {}


@app.task(pass_context=True)
async def draw(context: procrastinate.JobContext, prompt: str) -> str:
    event = done.get(context.job.id or -1)
    if event is not None:
        event.set()
    return prompt


async def accept() -> list[float]:
    """Each caller defers again as soon as the last job is accepted."""
    latencies: list[float] = []
    began = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - began < SECONDS:
            asked = time.perf_counter()
            await draw.defer_async(prompt="a little red circle on a big blue square")
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return latencies


async def finish() -> list[float]:
    """Each caller waits until its job is done: told in this very process, which is quicker than any poll."""
    latencies: list[float] = []
    began = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - began < SECONDS:
            asked = time.perf_counter()
            number = await draw.defer_async(prompt="a little red circle on a big blue square")
            event = done.setdefault(number, asyncio.Event())
            while not event.is_set():
                try:
                    await asyncio.wait_for(event.wait(), 0.05)
                except TimeoutError:
                    status = await app.job_manager.get_job_status_async(number)
                    if status is procrastinate.jobs.Status.SUCCEEDED:  # it was done before anybody listened
                        break
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return latencies


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=CALLERS, install_signal_handlers=False, listen_notify=True)
        )
        await asyncio.sleep(1)
        finished = await finish()
        accepted = await accept()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    print(json.dumps({"accepted": accepted, "done": finished}))


asyncio.run(main())
