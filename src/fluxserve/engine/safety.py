"""Safety: a look at each picture after it is decoded, by a classifier; what is flagged is not handed out."""

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from fluxserve.domain.catalog import SafetyWeights
from fluxserve.engine.png import Pixels


class FlaggedError(Exception):
    """A picture must not be shown. Callers read the message."""


class Safety:
    """One classifier. It is loaded with this, so that nothing is ever drawn that can't be looked at."""

    def __init__(self, weights: SafetyWeights, device: torch.device) -> None:
        self._processor = AutoImageProcessor.from_pretrained(weights.classifier)  # type: ignore[no-untyped-call]
        self._network = AutoModelForImageClassification.from_pretrained(weights.classifier, use_safetensors=True)
        self._network.requires_grad_(False)
        torch.nn.Module.to(self._network, device)
        numbers: dict[str, int] = self._network.config.label2id
        if unknown := set(weights.labels) - set(numbers):
            raise ValueError(
                f"{weights.classifier} has no label {', '.join(sorted(unknown))}, but {', '.join(numbers)}"
            )
        self._flagged = [numbers[label] for label in weights.labels]
        self._threshold = weights.threshold
        # Not behind what is being drawn meanwhile.
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def check(self, pixels: Pixels) -> None:
        """Raises `FlaggedError` if (height, width, 3) `pixels` must not be shown."""
        shown = self._processor(images=Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
        with torch.cuda.stream(self._stream):
            logits = self._network(pixel_values=shown.to(self._network.device)).logits
            likelihood = float(logits.softmax(-1)[0, self._flagged].sum())
        if likelihood >= self._threshold:
            raise FlaggedError("the picture was flagged by the safety check; change the prompt, or the seed")
