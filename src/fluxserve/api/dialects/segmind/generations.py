"""From a checked request to a generation: the picture and its mask are brought in, at the size of the result."""

from fluxserve.api.dialects.segmind.requests import Fill, Megapixels
from fluxserve.api.inputs import Inputs
from fluxserve.api.submitting import seed_of
from fluxserve.domain.catalog import MOST_PIXELS
from fluxserve.domain.generation import Generation, ImageFormat, Inpaint
from fluxserve.storage import Fit

DRAWN_BY = "flux1-dev-advanced"
GRID = 32  # pixels, of a result's sides
LONGEST = 1440
PIXELS: dict[Megapixels, int | None] = {"1": MOST_PIXELS, "0.25": MOST_PIXELS // 4, "match_input": None}
FORMATS: dict[str, ImageFormat] = {"jpg": "jpeg", "webp": "webp", "png": "png"}


async def to_generation(asked: Fill, account_id: str, inputs: Inputs) -> Generation:
    """Raises `InvalidInput`."""
    given = (asked.image,) if asked.mask is None else (asked.image, asked.mask)
    picture, mask = await inputs.take_masked(
        account_id,
        "image",
        *given,
        mask="alpha" if asked.mask is None else "white",
        fit=Fit(GRID, LONGEST, PIXELS[asked.megapixels]),
    )
    return Generation(
        model=DRAWN_BY,
        kind=Inpaint(asked.prompt, picture.key, mask.key),
        width=picture.width,
        height=picture.height,
        steps=asked.num_inference_steps,
        guidance_scale=asked.guidance,
        seed=seed_of(asked.seed),
        count=asked.num_outputs,
        format=FORMATS[asked.output_format],
        quality=asked.output_quality,
    )
