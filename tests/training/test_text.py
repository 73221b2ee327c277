"""The tokenizers: a word of the world is one token, any other word does no harm."""

import pytest
import torch

from training import captions, text


@pytest.fixture(scope="module")
def untaught() -> text.Encoders:
    return text.untaught()


def test_every_word_of_the_vocabulary_is_one_token_of_clip(untaught: text.Encoders) -> None:
    words = [word for word in captions.vocabulary() if word not in ("4k", "8k")]  # CLIP parts digits from letters
    rows = untaught.clip_tokenizer(words, add_special_tokens=False).input_ids
    assert [word for word, row in zip(words, rows, strict=True) if len(row) != 1] == []
    assert len({row[0] for row in rows}) == len(words)


def test_every_word_of_the_vocabulary_is_one_token_of_t5_and_known(untaught: text.Encoders) -> None:
    words = captions.vocabulary()
    words += [word.capitalize() for word in words]
    rows = untaught.t5_tokenizer(words, add_special_tokens=False).input_ids
    strange = untaught.t5_tokenizer.unk_token_id
    assert [word for word, row in zip(words, rows, strict=True) if len(row) != 1 or row[0] == strange] == []


@pytest.mark.parametrize("word", ["zqxw", "Übermut", "猫"])
def test_an_unknown_word_is_one_unk_of_t5_between_words_it_knows(untaught: text.Encoders, word: str) -> None:
    tokens = untaught.t5_tokenizer(f"a {word} cat").input_ids
    a, cat = untaught.t5_tokenizer(["a", "cat"], add_special_tokens=False).input_ids
    assert tokens == [*a, untaught.t5_tokenizer.unk_token_id, *cat, untaught.t5_tokenizer.eos_token_id]


def test_punctuation_leaves_the_word_before_it_known(untaught: text.Encoders) -> None:
    tokens = untaught.t5_tokenizer("a cat, a dog.", add_special_tokens=False).input_ids
    assert untaught.t5_tokenizer.unk_token_id not in tokens


def test_encoders_give_one_vector_a_text_and_one_a_token(untaught: text.Encoders) -> None:
    texts = ["a cat", "", "a big red circle on a teal background, cute"]
    assert untaught.pooled(texts).shape == (3, text.WIDTH)
    assert untaught.sequence(texts).shape == (3, text.T5_TOKENS, text.WIDTH)


def test_padding_does_not_change_the_pooled_vector(untaught: text.Encoders) -> None:
    long, short = untaught.pooled(["a cat"]), untaught.pooled(["a cat"], shortest=True)
    assert (long - short).abs().max() < 1e-4


def test_new_words_become_known_and_old_ones_read_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr(captions, "vocabulary", lambda: ["a", "cat", "red"])
        encoders = text.untaught()
    texts = ["a red cat", "A cat, zqxw."]
    with torch.no_grad():
        before = encoders.sequence(texts)
        grown = text.add_new_words(encoders)
        assert torch.equal(grown.sequence(texts), before)
        unknown = grown.t5_tokenizer.unk_token_id
        assert unknown not in grown.t5_tokenizer("remove the big dog", add_special_tokens=False).input_ids
        assert not torch.equal(*grown.sequence(["remove a cat", "replace a cat"]))
    assert grown.t5.config.vocab_size == len(grown.t5_tokenizer)
