"""Cog's asynchronous predictions, which answer with the prompt."""

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    async def predict(self, prompt: str = Input(description="words")) -> str:
        return prompt
