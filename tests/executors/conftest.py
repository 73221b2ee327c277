"""Scripted workers, started as real processes."""

import sys

import pytest

from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.job import Job
from fluxserve.domain.task import PUBLIC
from fluxserve.executors import WorkerCommand


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def command(name: str = "one", *behaviour: str, pool: str = PUBLIC) -> WorkerCommand:
    return WorkerCommand(name, (sys.executable, "-m", "tests.executors.scripted_worker", *behaviour), pool)


def job(job_id: str, script: str = "picture") -> Job:
    return Job(job_id, Generation("flux1-schnell", TextToImage(script), 64, 64, 1, None, 5))
