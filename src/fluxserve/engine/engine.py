"""Draws a generation in FLUX's four stages, and finishes it: looks at what came out, and makes files of it. The two are
for two threads, so that one picture is finished while the next is being drawn."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from fluxserve.domain.catalog import drawing_size
from fluxserve.domain.generation import Control, Generation
from fluxserve.domain.job import Picture
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.conditions import encode, prepare
from fluxserve.engine.decode import decode
from fluxserve.engine.denoise import Estimate, IsCancelled, denoise
from fluxserve.engine.finish import Drawn, finish
from fluxserve.engine.flux import Flux
from fluxserve.engine.loras import Loras
from fluxserve.engine.png import Pixels
from fluxserve.engine.preview import Previews
from fluxserve.engine.safety import FlaggedError, Safety
from fluxserve.engine.seen import Seen
from fluxserve.engine.text import TextEncoder
from fluxserve.engine.tuning import attending
from fluxserve.engine.weights import Loader

Preview = Callable[[], bytes]
"""Makes a file of the picture as it looks so far: a small PNG with a pixel for each position of its latents; or, where
the generation promises previews, what the finished file would be. Empty where it must not be shown: a safety check
looks at whole pictures only, so there is no small one beside it, and none that it flags."""
OnProgress = Callable[[int, int, Preview], None]
"""Told (step, steps, preview) after each step, those of all pictures counted together. The preview is of the picture
that is being drawn."""


class Engine:
    """Draws one generation at a time; nothing of one reaches the next but loaded weights and encoded prompts.

    Each says anew which LoRA is on, or none."""

    def __init__(self, loader: Loader, loras: Loras, annotators: Annotators, safety: Safety | None) -> None:
        self._loader = loader
        self._loras = loras
        self._annotators = annotators
        self._safety = safety
        self._encoder = TextEncoder()
        self._seen = Seen()
        self._previews = Previews()

    @property
    def device(self) -> str:
        return str(self._loader.device)

    @property
    def members(self) -> tuple[str, ...]:
        """Those that could begin at once."""
        return self._loader.members

    @property
    def plan(self) -> str:
        """How the family is kept, in words."""
        return str(self._loader.plan)

    def shrink(self) -> bool:
        """Go on with less memory, once there was too little; False if that can't be. Everything is loaded anew."""
        self._encoder, self._seen = TextEncoder(), Seen()
        return self._loader.shrink()

    def load(self, members: Sequence[str]) -> None:
        """Load members of the family before they are needed, as many as there is room for, the first one anyway."""
        self._loader.load_ahead(members)

    def generate(
        self, generation: Generation, images: Mapping[str, bytes], on_progress: OnProgress, is_cancelled: IsCancelled
    ) -> list[Drawn]:
        """Its pictures in the order of its seeds, and last its control's map if that is asked for. They may yet be on
        their way from the device.

        Raises `StoppedError` when cancelled, and `CannotDraw` without its LoRA or annotator.

        `images` are the callers' pictures that it names, as plain PNG files. Pictures are drawn one after another, not
        as a batch: a batch's matrix products round differently, and a seed must give the same picture whatever it is
        drawn with.
        """
        flux = self._loader.load_for(generation)
        self._loras.put_on(flux.own, generation.lora)
        size = drawing_size(flux.row, generation.width, generation.height)
        pictures: list[Drawn] = []
        small = partial(self._small_preview, flux, size)
        look = partial(self._promised_preview, flux, generation, images, size)

        def on_step(step: int, steps: int, estimate: Estimate) -> None:
            seed = generation.seeds[len(pictures)]
            preview = partial(look, seed, estimate) if generation.previews else partial(small, estimate)
            on_progress(len(pictures) * steps + step, generation.count * steps, preview)

        with attending(self._loader.tuning), torch.inference_mode():
            words = encode(self._encoder, flux, generation.kind)
            annotated = self._annotated(generation.control, images, size)
            for seed in generation.seeds:
                prepared = prepare(flux, generation, images, words, self._seen, annotated, size, seed)
                latents = denoise(prepared, self._loader.tuning.stride, on_step, is_cancelled)
                pictures.append(Drawn(decode(flux.shared.vae, latents, prepared.rows, prepared.columns), seed))
        if annotated is not None and generation.control is not None and generation.control.is_returned:
            pictures.append(Drawn(lambda: annotated, generation.seed, is_map=True))
        return pictures

    def finish(self, drawn: Drawn, generation: Generation, images: Mapping[str, bytes]) -> Picture:
        """One of the pictures of `generate` as a file. Raises `FlaggedError` when it must not be shown."""
        if self._safety is not None and not drawn.is_map:
            self._safety.check(drawn.pixels)
        return finish(drawn, generation, images)

    def _small_preview(self, flux: Flux, size: tuple[int, int], estimate: Estimate) -> bytes:
        if self._safety is not None:
            return b""
        columns, rows = (side // flux.pixels_per_token for side in size)
        return self._previews.paint(flux.shared.vae, estimate(), rows, columns)

    def _promised_preview(
        self,
        flux: Flux,
        generation: Generation,
        images: Mapping[str, bytes],
        size: tuple[int, int],
        seed: int,
        estimate: Estimate,
    ) -> bytes:
        columns, rows = (side // flux.pixels_per_token for side in size)
        drawn = Drawn(decode(flux.shared.vae, estimate().to(flux.dtype), rows, columns), seed)
        try:
            return self.finish(drawn, generation, images).data
        except FlaggedError:
            return b""

    def _annotated(self, control: Control | None, images: Mapping[str, bytes], size: tuple[int, int]) -> Pixels | None:
        return None if control is None else self._annotators.annotate(control.type, images[control.image], size)
