"""The web application: health, pictures, and each dialect mounted at its own paths with its own error bodies."""

import re

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from fluxserve import __version__
from fluxserve.api import files
from fluxserve.api.admin import create_admin_app
from fluxserve.api.context import Context
from fluxserve.api.describing import Refusal, refusals
from fluxserve.api.dialects import openai, piapi, segmind
from fluxserve.api.perimeter import Gate
from fluxserve.api.perimeter.gate import origin_of
from fluxserve.domain.errors import FluxserveError, NotFound, TooSlow, Unavailable, WrongHost, WrongOrigin

ABOUT = """FLUX image generation on your own machine. Each API that it speaks has pages of its own:

* [PiAPI's task API](/api/docs), and [its account API](/account/docs)
* [OpenAI's chat API](/v1/docs), and [its Images API](/v1/images/docs)
* [Segmind's API](/segmind/docs)
* [administration](/admin/docs)
"""
PIAPI_PATHS = ("/api/", "/account/")
OPENAI_PATHS = ("/v1/",)
STATUSES: dict[type[FluxserveError], int] = {
    WrongOrigin: 403,
    NotFound: 404,
    TooSlow: 408,
    WrongHost: 421,
    FluxserveError: 503,
}
EXPOSED = ["Retry-After", *segmind.HEADERS]  # that a page elsewhere may read


class Shared(BaseRoute):
    """An application that has paths among those of others: the ones that `paths` matches whole, as they stand."""

    def __init__(self, paths: re.Pattern[str], app: ASGIApp) -> None:
        self.paths = paths
        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_theirs = scope["type"] == "http" and self.paths.fullmatch(scope["path"]) is not None
        return (Match.FULL if is_theirs else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def create_app(context: Context) -> FastAPI:
    app = FastAPI(title="fluxserve", version=__version__, description=ABOUT, responses=refusals(Refusal))
    app.mount("/api", piapi.create_app(context))
    app.mount("/account", piapi.create_account_app(context))
    app.router.routes.append(Shared(segmind.PATHS, segmind.create_app(context)))
    app.mount("/v1/images", openai.create_images_app(context))
    app.mount("/v1", openai.create_chat_app(context))
    app.mount("/admin", create_admin_app(context))
    app.include_router(files.router(context))
    if context.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=context.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    # A request comes first to what was added last.
    own_pages = origin_of(context.public_url)
    app.add_middleware(Gate, hosts=context.hosts, origins=context.origins | {own_pages}, refusal=refusal)

    @app.get(
        "/healthz",
        summary="200 once the server can draw; until then 503, and what it is doing",
        responses={503: {"description": "It is starting"}},
    )
    async def health() -> JSONResponse:
        can_draw = context.can_draw()
        return JSONResponse(
            {"status": "ok" if can_draw else "starting", "workers": context.doing()}, 200 if can_draw else 503
        )

    @app.exception_handler(FluxserveError)
    async def refuse(request: Request, error: FluxserveError) -> Response:
        return refusal(request.url.path, error)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        # A line break in a path keeps it from its mount; the answer is the dialect's all the same.
        if request.url.path.startswith(PIAPI_PATHS):
            return await piapi.no_route(request, error)
        if request.url.path.startswith(OPENAI_PATHS):
            return await openai.no_route(request, error)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    return app


def refusal(path: str, error: FluxserveError) -> Response:
    """The answer to a request that came to no door, in the form of that which `path` leads to."""
    if path.startswith(PIAPI_PATHS):
        return piapi.refusal(error)
    if segmind.PATHS.fullmatch(path):
        return segmind.refusal(error)
    if path.startswith(OPENAI_PATHS):
        return openai.refusal(error)
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Unavailable) else {}
    return JSONResponse({"error": error.message}, status, headers)
