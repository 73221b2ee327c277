"""What every creating route does with a checked request: a seed for it, and the way into the queue."""

import secrets

from fluxserve.api.context import Context
from fluxserve.domain.errors import NoRoom, Refused
from fluxserve.domain.generation import RANDOM_SEED, images_of
from fluxserve.domain.task import Submission, Task


def seed_of(asked: int | None) -> int:
    """The seed asked for; a random one, small enough for every client's integers, if that is what is asked."""
    return secrets.randbelow(2**31) if asked is None or asked == RANDOM_SEED else asked


async def submit(context: Context, submission: Submission) -> Task:
    """The accepted task; the pictures of one that is refused are let go again."""
    try:
        task = await context.queue.submit(submission)
    except (Refused, NoRoom):
        await context.inputs.discard(images_of(submission.generation))
        raise  # any other may have been accepted: whether its pictures are needed, the upkeep finds out
    if task.generation is not submission.generation:  # another server took this request in at the same time
        await context.inputs.discard(images_of(submission.generation))
    return task
