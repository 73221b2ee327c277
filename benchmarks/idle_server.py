"""The server as it is, but for its worker, which draws nothing: what is left is the queue.

python -m benchmarks.idle_server
"""

from fluxserve import cli
from fluxserve.executors import workers

IDLE_WORKER = "tests.executors.scripted_worker"  # answers with the prompt

if __name__ == "__main__":
    workers.ENGINE = IDLE_WORKER
    cli.app(["serve"])
