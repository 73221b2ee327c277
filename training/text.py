"""Teach the text encoders: tokenizers from the vocabulary, then CLIP and T5 by naming what a caption says.

Both encoders learn to give, through linear heads thrown away afterwards, every attribute of the captioned scene. A
flow that starts from such encoders follows words from its first hour; taught together from nothing, it ignored them.

    python -m training.text --minutes 4
    python -m training.text --new-words

The second gives T5 the words that the vocabulary has gained since, and changes nothing for all others: members that
were taught with it go on reading what they read before.
"""

import argparse
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from training import captions, world
from training.sitting import WEIGHTS, Sitting, device

WIDTH = 256
T5_TOKENS = 24
PIECES = (("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (",", -4.0), (".", -4.0))  # T5's, before the words
RATE = 1e-3
RELATIONS = (None, "left of", "above", "several")
ITEMS = (*(thing.name for thing in world.THINGS), *world.SHAPES, world.PERSON)
BACKGROUNDS = (*world.BACKGROUNDS, "unsaid")
COLOURS = (*world.COLOURS, "none")
HEADS = {
    "first": len(ITEMS), "second": len(ITEMS), "colour": len(COLOURS), "background": len(BACKGROUNDS),
    "place": len(world.PLACES), "size": len(world.SIZES), "relation": len(RELATIONS), "count": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Encoders:
    """The four text parts, as FLUX has them."""

    clip_tokenizer: CLIPTokenizer
    clip: CLIPTextModel
    t5_tokenizer: T5Tokenizer
    t5: T5EncoderModel

    def save_clip(self) -> None:
        self.clip_tokenizer.save_pretrained(WEIGHTS / "tokenizer")
        nn.Module.to(self.clip, torch.bfloat16).save_pretrained(WEIGHTS / "text_encoder")

    def save_t5(self) -> None:
        self.t5_tokenizer.save_pretrained(WEIGHTS / "tokenizer_2")
        nn.Module.to(self.t5, torch.bfloat16).save_pretrained(WEIGHTS / "text_encoder_2")

    def pooled(self, texts: list[str], *, shortest: bool = False) -> torch.Tensor:
        """CLIP's vector of each text, (n, 256). Padding after the end changes nothing there: `shortest` saves time."""
        tokens = self.clip_tokenizer(
            texts, padding="longest" if shortest else "max_length", max_length=77, truncation=True, return_tensors="pt"
        )
        pooled: torch.Tensor = self.clip(tokens.input_ids.to(self.clip.device)).pooler_output
        return pooled

    def sequence(self, texts: list[str]) -> torch.Tensor:
        """T5's vectors, (n, 24, 256), padded and unmasked as FLUX does it."""
        tokens = self.t5_tokenizer(
            texts, padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt"
        )
        sequence: torch.Tensor = self.t5(tokens.input_ids.to(self.t5.device)).last_hidden_state
        return sequence


def load() -> Encoders:
    """The taught encoders, in float32 and frozen."""
    clip = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder", dtype=torch.float32).requires_grad_(False)
    t5 = T5EncoderModel.from_pretrained(WEIGHTS / "text_encoder_2", dtype=torch.float32).requires_grad_(False)
    for encoder in (clip, t5):
        nn.Module.to(encoder, device())
    return Encoders(
        CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer"),
        clip,
        T5Tokenizer.from_pretrained(WEIGHTS / "tokenizer_2"),
        t5,
    )


def untaught() -> Encoders:
    clip_tokenizer, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer(_as_typed(captions.vocabulary()))
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=8, projection_dim=WIDTH, bos_token_id=clip_tokenizer.bos_token_id,
            eos_token_id=clip_tokenizer.eos_token_id, pad_token_id=clip_tokenizer.pad_token_id,
        )
    )  # fmt: skip
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer), d_model=WIDTH, d_kv=32, num_heads=8, d_ff=2 * WIDTH, num_layers=2,
            feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )
    )  # fmt: skip
    return Encoders(clip_tokenizer, clip, t5_tokenizer, t5)


def _clip_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in which the words of the vocabulary are one token each; other words fall to pieces."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    trained.train_from_iterator([[word] for word in captions.vocabulary()], trainer)
    merges: Any = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges, model_max_length=77
    )


def _as_typed(words: list[str]) -> list[str]:
    """They, and after them the same capitalised."""
    return words + [word.capitalize() for word in words if word.capitalize() != word]


def _t5_tokenizer(words: list[str]) -> T5Tokenizer:
    """Unigram over whole words, numbered in their order: what is left of any other is one <unk>, not letters."""
    pieces = [*PIECES, *((f"▁{word}", -1.0 - 0.001 * number) for number, word in enumerate(words))]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_TOKENS)


def add_new_words(encoders: Encoders) -> Encoders:
    """With every word of the vocabulary known to T5; the new ones have vectors at random, as far apart as others."""
    numbers: dict[str, int] = encoders.t5_tokenizer.get_vocab()
    known = [piece.removeprefix("▁") for piece in sorted(numbers, key=lambda piece: numbers[piece])[len(PIECES) :]]
    words = [*known, *(word for word in _as_typed(captions.vocabulary()) if word not in set(known))]
    tokenizer = _t5_tokenizer(words)
    table = encoders.t5.shared.weight.detach()
    generator = torch.Generator().manual_seed(len(words))
    fresh = torch.randn(len(tokenizer) - len(table), WIDTH, generator=generator).to(table) * table.std() + table.mean()
    grown = nn.Embedding.from_pretrained(torch.cat((table, fresh)))  # type: ignore[no-untyped-call]
    encoders.t5.set_input_embeddings(grown)  # type: ignore[no-untyped-call]
    encoders.t5.config.vocab_size = len(tokenizer)
    return replace(encoders, t5_tokenizer=tokenizer)


class Heads(nn.Module):
    """Linear readings of one vector a text."""

    def __init__(self) -> None:
        super().__init__()
        self.of = nn.ModuleDict({name: nn.Linear(WIDTH, size) for name, size in HEADS.items()})

    def loss(self, vectors: torch.Tensor, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum((F.cross_entropy(head(vectors), answers[name]) for name, head in self.of.items()), torch.zeros(()))

    @torch.no_grad()
    def right(self, vectors: torch.Tensor, answers: dict[str, torch.Tensor]) -> dict[str, float]:
        return {
            name: float((head(vectors).argmax(-1) == answers[name]).float().mean()) for name, head in self.of.items()
        }


def lesson(rng: np.random.Generator, count: int, *, held_out: bool) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Captions and, for each head, the right answers."""
    texts: list[str] = []
    answers: dict[str, list[int]] = {name: [] for name in HEADS}
    for _ in range(count):
        scene = world.imagine(rng, held_out=held_out)
        says_background = rng.random() < 0.8
        texts.append(captions.caption(scene, rng, says_background=says_background))
        first, second = scene.items[0], scene.items[min(1, len(scene.items) - 1)]
        answers["first"].append(ITEMS.index(first.name))
        answers["second"].append(ITEMS.index(second.name))
        answers["colour"].append(COLOURS.index(first.colour or "none"))
        answers["background"].append(BACKGROUNDS.index(scene.background if says_background else "unsaid"))
        answers["place"].append(world.PLACES.index(scene.place))
        answers["size"].append(list(world.SIZES).index(scene.size))
        answers["relation"].append(RELATIONS.index(scene.relation))
        answers["count"].append(len(scene.items))
    return texts, {name: torch.tensor(values, device=device()) for name, values in answers.items()}


def train(minutes: float) -> None:
    torch.manual_seed(0)
    sitting = Sitting("text", minutes, RATE)
    encoders = untaught()
    clip_heads, t5_heads = Heads().to(device()), Heads().to(device())
    parts = nn.ModuleList([encoders.clip, encoders.t5, clip_heads, t5_heads]).to(device())
    optimizer = torch.optim.AdamW(parts.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    if state := sitting.load():
        parts.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    rng = np.random.default_rng(sitting.steps)
    parameters = list(parts.parameters())
    while sitting.lasts():
        texts, answers = lesson(rng, 128, held_out=False)
        loss = clip_heads.loss(encoders.pooled(texts, shortest=True), answers)
        loss = loss + t5_heads.loss(encoders.sequence(texts).mean(1), answers)
        sitting.step(optimizer, loss, parameters)
    sitting.save(model=parts.state_dict(), optimizer=optimizer.state_dict())
    parts.eval()
    with torch.no_grad():
        texts, answers = lesson(np.random.default_rng(9), 500, held_out=True)
        for name, heads, vectors in (
            ("CLIP", clip_heads, encoders.pooled(texts)),
            ("T5", t5_heads, encoders.sequence(texts).mean(1)),
        ):
            print(name, {head: f"{share:.1%}" for head, share in heads.right(vectors, answers).items()})
    encoders.save_clip()
    encoders.save_t5()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--new-words", action="store_true", help="teach nothing; let T5 know the vocabulary of today")
    chosen = parser.parse_args()
    if chosen.new_words:
        add_new_words(load()).save_t5()
    else:
        train(chosen.minutes)
