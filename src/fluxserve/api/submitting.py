"""What every creating route does with a checked request: a seed for it, and the way into the queue."""

import secrets

from fluxserve.api.context import Context
from fluxserve.domain.catalog import abilities_for
from fluxserve.domain.errors import InvalidInput, NoRoom, Refused
from fluxserve.domain.generation import RANDOM_SEED, images_of
from fluxserve.domain.task import Submission, Task


def seed_of(asked: int | None) -> int:
    """The seed asked for; a random one, small enough for every client's integers, if that is what is asked."""
    return secrets.randbelow(2**31) if asked is None or asked == RANDOM_SEED else asked


async def submit(context: Context, submission: Submission) -> Task:
    """The accepted task; the pictures of one that is refused are let go again."""
    generation = submission.generation
    try:
        if lacks := abilities_for(generation) - context.abilities:
            raise InvalidInput(
                "model", generation.model, f"what it needs here is not on this server: {', '.join(sorted(lacks))}"
            )
        task = await context.queue.submit(submission)
    except (Refused, NoRoom):
        await context.inputs.discard(images_of(generation))
        raise  # any other may have been accepted: whether its pictures are needed, the upkeep finds out
    if task.generation is not generation:  # another server took this request in at the same time
        await context.inputs.discard(images_of(generation))
    return task
