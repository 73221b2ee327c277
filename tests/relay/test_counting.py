"""Tokens by the written rule."""

from fluxserve.relay import counted, prompt_of


def test_a_token_is_four_bytes_rounded_up_and_a_picture_is_a_thousand() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    content = [{"type": "text", "text": "what is this?"}, picture]

    prompt = prompt_of({"messages": [{"role": "user", "content": content}]})

    words = "messagesroleusercontenttypetexttextwhat is this?"
    assert (prompt.size, prompt.pictures) == (len(words), 1)
    assert prompt.tokens == 1000 + -(-len(words) // 4)
    assert counted(0) == 0
    assert counted(5) == 2


def test_at_most_a_token_is_one_byte_and_a_picture_three_thousand() -> None:
    assert prompt_of("né").most_tokens == 3
    assert prompt_of([{"type": "image_url"}, "a"]).most_tokens == 3001


def test_what_is_counted_is_never_more_than_what_is_held() -> None:
    for values in ("", "a", "日本語", [{"type": "image_url"}], {"a": [1, None, True, "b"]}):
        prompt = prompt_of(values)
        assert prompt.tokens <= prompt.most_tokens


def test_however_deep_it_goes() -> None:
    values: list[object] = ["a"]
    for _ in range(100_000):
        values = [values]

    assert prompt_of(values).size == 1
