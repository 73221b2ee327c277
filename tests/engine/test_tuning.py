"""How devices are put to use: what can be known of that without a GPU."""

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from fluxserve.domain.speeds import ATTENTIONS, COMPILATIONS, SPEEDS, Attention
from fluxserve.engine.tuning import Tuning, attending, tuned

CPU = torch.device("cpu")


def test_on_a_cpu_nothing_is_compiled_or_replayed_unless_asked_for() -> None:
    assert tuned(CPU, SPEEDS["exact"], "auto", "auto") == Tuning()
    assert tuned(CPU, SPEEDS["exact"], "off", "auto") == Tuning()
    assert tuned(CPU, SPEEDS["exact"], "on", "auto") == Tuning(compiles=True)


def test_a_speed_says_which_steps_are_computed() -> None:
    assert [tuned(CPU, SPEEDS[name], "auto", "auto").stride for name in ("exact", "fast", "fastest")] == [1, 2, 4]


@pytest.mark.parametrize("name", [name for name in ATTENTIONS if name != "auto"])
def test_the_attention_asked_for_comes_first_and_one_that_can_do_everything_last(name: Attention) -> None:
    backends = tuned(CPU, SPEEDS["exact"], "auto", name).backends
    assert backends[0].name.lower().startswith(name)
    assert len(backends) == len(set(backends))
    assert backends[-1] == SDPBackend.MATH
    assert name == "cudnn" or SDPBackend.CUDNN_ATTENTION not in backends


def test_whatever_attention_is_asked_for_there_is_an_answer() -> None:
    query, key, value = torch.randn(3, 1, 2, 8, 16).unbind()
    expected = scaled_dot_product_attention(query, key, value)
    for name in ATTENTIONS:
        with attending(tuned(CPU, SPEEDS["exact"], "auto", name)):
            torch.testing.assert_close(scaled_dot_product_attention(query, key, value), expected)


def test_choices_are_those_that_the_settings_allow() -> None:
    from fluxserve.config import EngineSettings

    for field, choices in (("compilation", COMPILATIONS), ("attention", ATTENTIONS), ("speed", tuple(SPEEDS))):
        for choice in choices:
            EngineSettings.model_validate({field: choice})
        with pytest.raises(ValueError, match=field):
            EngineSettings.model_validate({field: "other"})
