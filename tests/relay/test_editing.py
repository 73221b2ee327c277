"""One field is exchanged, and every other byte stays."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxserve.domain.errors import InvalidInput
from fluxserve.relay import fields_of

TEXTS = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=6).filter(
    lambda values: len({name.casefold() for name in values}) == len(values)
)
STYLES = st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", "\t: ")])


@given(OBJECTS, STYLES, st.booleans(), st.sampled_from([None, 1, 2]))
def test_every_field_is_found_where_it_is(
    values: dict[str, Any], style: tuple[str, str], is_ascii: bool, indent: int | None
) -> None:
    body = json.dumps(values, separators=style, ensure_ascii=is_ascii, indent=indent).encode()

    fields = fields_of(body)

    assert {name: json.loads(body[start:end]) for name, (start, end) in fields.places.items()} == values


@given(OBJECTS, TEXTS, VALUES, STYLES)
def test_a_field_is_exchanged_or_added_and_the_rest_stays(
    values: dict[str, Any], name: str, value: Any, style: tuple[str, str]
) -> None:
    body = json.dumps(values, separators=style).encode()
    fields = fields_of(body)
    if name.casefold() in {each.casefold() for each in values} - {name}:
        return

    changed = fields.with_value(name, value)

    assert json.loads(changed.body) == {**values, name: value}
    if name in values:
        (start, end), (_, new_end) = fields.places[name], changed.places[name]
        assert (changed.body[:start], changed.body[new_end:]) == (body[:start], body[end:])
    else:
        assert changed.body.startswith(body[: body.rindex(b"}")])


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "cheap", "model": "dear"}',
        b'{"model": "cheap", "Model": "dear"}',
        b'{"model": "cheap", "mod\\u0065l": "dear"}',
        b'{"n": 1, "x": {"n": 2}, "n": 3}',
    ],
)
def test_a_field_that_comes_twice_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="allowed is each field once"):
        fields_of(body)


def test_a_known_field_in_other_letters_is_refused_and_an_unknown_one_is_not() -> None:
    with pytest.raises(InvalidInput, match=r"Max_Tokens: .*allowed is max_tokens"):
        fields_of(b'{"Max_Tokens": 1}', frozenset({"max_tokens"}))
    assert set(fields_of(b'{"Max_Tokens": 1}').places) == {"Max_Tokens"}
