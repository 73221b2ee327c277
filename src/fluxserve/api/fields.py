"""Kinds of fields that every dialect's bodies have. What a dialect allows in them, its own `requests` says."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


def _whole(value: object) -> object:
    """JSON has one kind of number: 4.0 is 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _clean(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text


Whole = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str, AfterValidator(_clean)]
SaidText = Annotated[Text, AfterValidator(_said)]


class Incoming(BaseModel):
    """Fields that the vendor's pages don't know are ignored; null means absent."""

    model_config = ConfigDict(strict=True, extra="ignore")
