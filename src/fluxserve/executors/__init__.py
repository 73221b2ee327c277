"""The hands: places where jobs are drawn. An executor starts workers by name, hands them jobs, and tells what became of
each; a worker that dies, hangs or runs out of memory is an ordinary `Lost`, and is replaced. It decides nothing about
tasks, and never imports the engine.
"""

from fluxserve.executors.base import Slot
from fluxserve.executors.local import LocalExecutor, Report, WorkerCommand

__all__ = ["LocalExecutor", "Report", "Slot", "WorkerCommand"]
