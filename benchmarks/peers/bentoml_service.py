"""BentoML's task queue, which answers with the prompt."""

import bentoml


@bentoml.service(workers=1)
class Nothing:
    @bentoml.task
    async def draw(self, prompt: str) -> str:
        return prompt
