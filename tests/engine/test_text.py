from unittest.mock import patch

import torch
from diffusers import FluxPipeline

from fluxserve.engine.flux import Flux
from fluxserve.engine.text import TextEncoder
from tests.engine.oracle import pipeline_of


def test_embeddings_are_those_of_diffusers(schnell: Flux) -> None:
    pipeline: FluxPipeline = pipeline_of(schnell)
    for prompt in ("a red circle", "", "words nobody taught it", "a little cat on the grass " * 40):
        with torch.inference_mode():
            ours = TextEncoder().encode(schnell, prompt)
            sequence, pooled, _ = pipeline.encode_prompt(prompt, max_sequence_length=schnell.row.prompt_tokens)
        assert torch.equal(ours.sequence, sequence)
        assert torch.equal(ours.pooled, pooled)


def test_a_prompt_seen_before_is_not_encoded_again(schnell: Flux, dev: Flux) -> None:
    encoder = TextEncoder()
    first = encoder.encode(schnell, "a cat")
    with patch.object(schnell.shared.t5, "forward", side_effect=AssertionError):
        assert encoder.encode(schnell, "a cat") is first
        assert encoder.encode(dev, "a cat") is first  # the same encoders at the same length


def test_only_the_prompts_used_last_are_kept(schnell: Flux) -> None:
    encoder = TextEncoder(most_kept=2)
    cat, dog = encoder.encode(schnell, "a cat"), encoder.encode(schnell, "a dog")
    assert encoder.encode(schnell, "a cat") is cat  # now the dog is the oldest
    encoder.encode(schnell, "a circle")
    assert encoder.encode(schnell, "a cat") is cat
    assert encoder.encode(schnell, "a dog") is not dog
