"""What a plan means to whoever waits for pictures, where it is not what one would wish for."""

from fluxserve.domain.machine import Concession, Foreseen
from fluxserve.weights import in_words

CONCESSIONS: dict[Concession, str] = {
    "t5": "T5 on the host: a prompt that was not read lately takes about a second more",
    "modulation": "modulation on the host: its weights cross to the device once a picture, which begins a little later",
    "tiles": "decoded in tiles: a picture is there a little later",
    "bfloat16": "bfloat16 instead of float32: pictures differ a little from exact ones",
    "fp8": "fp8 instead of bfloat16: pictures differ a little from exact ones",
    "4 bits": "4 bits: pictures differ visibly from exact ones, and each step takes longer",
}


def meanings(foreseen: Foreseen, members: int) -> list[str]:
    """One line each; `members` is how many transformers are to be drawn with."""
    if not foreseen.fits:
        return [f"it does not fit: {in_words(-foreseen.room)} are missing, and memory will most likely run out"]
    told = [CONCESSIONS[each] for each in foreseen.concessions]
    if foreseen.on_host:
        told.append(f"{in_words(foreseen.on_host)} of the host's memory are used instead")
    if foreseen.transformers < members:
        told.append("not all transformers fit at once: another one is loaded when it is asked for, before its picture")
    return told
