"""A real server of text models that is not ours: ``transformers serve`` with a small model of random weights.

It is made on the spot, and says nonsense, byte by byte; how it says it, and what it tells of its tokens, is its own.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx

from tests.end_to_end.serving import free_port

START_SECONDS = 120
MAKE = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
words = {letter: number for number, letter in enumerate([*letters, "<end>"])}
tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
fast.chat_template = (
    "{% for tool in tools or [] %}{{ tool['function'] | tojson }}\\n{% endfor %}"
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}assistant:"
)
end = words["<end>"]
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
tokens = {"vocab_size": len(words), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
model = LlamaForCausalLM(LlamaConfig(**sizes, **tokens, num_key_value_heads=2, max_position_embeddings=2048))
for each in (model, fast):
    each.save_pretrained(sys.argv[1])
"""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """Its address up to /chat/completions, and its model's name."""
    model, log, port = folder / "model", folder / "upstream.log", free_port()
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([sys.executable, "-c", MAKE, str(model)], env=quiet, check=True, capture_output=True)
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--device", "cpu"]
    with log.open("wb") as told:
        process = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)], env=quiet, stdout=told, stderr=told
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_there(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"{url}/v1", str(model)
    finally:
        process.kill()
        process.wait()


def _is_there(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    return False


def relayed(upstreams: dict[str, object], models: dict[str, object]) -> dict[str, str]:
    """The variables of a server that relays these."""
    return {"FLUXSERVE_UPSTREAMS": json.dumps(upstreams), "FLUXSERVE_RELAYED_MODELS": json.dumps(models)}
