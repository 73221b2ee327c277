"""Who answers for a model, and who is tried next."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from fluxserve.domain.completion import Rate
from fluxserve.domain.errors import TooMany, UnknownModel, UpstreamsFailed, shown
from fluxserve.relay.upstreams import TOO_MANY, Answer, Request, Stream, Upstream, UpstreamError

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
LONGEST_RETRY_AFTER = 3600


@dataclass(frozen=True, slots=True)
class Route:
    """A model and the upstreams that answer for it, in the order they are tried.

    `upstream_model` is its name there. A request that does not say how many tokens it wants pays for at most
    `most_output_tokens`.
    """

    model: str
    upstreams: tuple[Upstream, ...]
    rate: Rate
    upstream_model: str
    most_output_tokens: int


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be relayed, and by which route."""

    route: Route
    request: Request

    @property
    def seconds(self) -> float:
        """That it may take in all, once a stream has begun."""
        return max(upstream.answer_seconds for upstream in self.route.upstreams)


class Relay:
    """All routes, each by the name that callers use."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = {route.model: route for route in routes}

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._routes)

    def find(self, model: str) -> Route | None:
        return self._routes.get(model)

    def route(self, model: str) -> Route:
        """Raises `UnknownModel`."""
        if (route := self.find(model)) is None:
            raise UnknownModel(model)
        return route

    async def ask(self, order: Order) -> Answer | Stream:
        """The answer of the first upstream that gives one. Raises `UpstreamsFailed` or `TooMany`."""
        failures = []
        for upstream in order.route.upstreams:
            try:
                return await upstream.ask(order.request)
            except UpstreamError as error:
                log.warning("upstream %s, asked for %s: %s", upstream.name, order.route.model, error.message)
                failures.append(error)
        raise _refusal(order.route.model, failures)

    async def close(self) -> None:
        for upstream in {each for route in self._routes.values() for each in route.upstreams}:
            await upstream.close()


def _refusal(model: str, failures: list[UpstreamError]) -> UpstreamsFailed | TooMany:
    """Why each failed is for the log: it tells of the house, and the caller can't mend it."""
    if all(failure.status == TOO_MANY for failure in failures):
        told = [failure.retry_after for failure in failures if failure.retry_after is not None]
        wait = min(max(min(told, default=RETRY_AFTER_SECONDS), 1), LONGEST_RETRY_AFTER)
        return TooMany(
            f"model: {shown(model)} is asked for too much just now; Retry-After says when to come again", wait
        )
    return UpstreamsFailed(f"model: nobody who answers for {shown(model)} does so just now; try again soon")
