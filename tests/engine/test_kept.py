from fluxserve.engine.kept import Kept


def test_what_was_used_last_is_kept_and_the_rest_made_anew() -> None:
    made: list[str] = []

    def length(word: str) -> int:
        made.append(word)
        return len(word)

    kept: Kept[str, int] = Kept(2)
    for word in ("a", "bb", "a", "ccc", "a", "bb"):
        assert kept.get(word, lambda word=word: length(word)) == len(word)  # type: ignore[misc]
    assert made == ["a", "bb", "ccc", "bb"]
    assert len(kept) == 2
