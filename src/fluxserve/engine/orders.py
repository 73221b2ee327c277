"""The worker's list of jobs: first come, first drawn, and a caller may change his mind. It draws nothing itself."""

from collections import deque
from threading import Condition

from fluxserve.domain.job import Job


class Orders:
    """Filled by the thread that reads the pipe, emptied by the one that draws."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()
        self._current: Job | None = None
        self._is_cancelled = False
        self._changed = Condition()

    def add(self, job: Job) -> None:
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def next(self) -> Job:
        """Waits for a job, which is the current one from now on."""
        with self._changed:
            self._current, self._is_cancelled = None, False
            self._changed.wait_for(lambda: self._waiting)
            self._current = self._waiting.popleft()
            return self._current

    def cancel(self, job_id: str) -> bool:
        """Drop a waiting job, and say that this was done; mark the current one; of any other there is nothing to do."""
        with self._changed:
            for job in self._waiting:
                if job.id == job_id:
                    self._waiting.remove(job)
                    return True
            if self._current is not None and self._current.id == job_id:
                self._is_cancelled = True
            return False

    def is_cancelled(self) -> bool:
        """Whether the current job is to be stopped."""
        with self._changed:
            return self._is_cancelled
