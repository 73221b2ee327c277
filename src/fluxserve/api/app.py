"""The web application: health, pictures, and each dialect mounted at its own paths with its own error bodies."""

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fluxserve import __version__
from fluxserve.api import files
from fluxserve.api.admin import create_admin_app
from fluxserve.api.context import Context
from fluxserve.api.describing import Refusal, refusals
from fluxserve.api.dialects import piapi
from fluxserve.domain.errors import FluxserveError, NotFound

ABOUT = """FLUX image generation on your own machine. Each API that it speaks has pages of its own:

* [PiAPI's task API](/api/docs), and [its account API](/account/docs)
* [administration](/admin/docs)
"""


def create_app(context: Context) -> FastAPI:
    app = FastAPI(title="fluxserve", version=__version__, description=ABOUT, responses=refusals(Refusal))
    app.mount("/api", piapi.create_app(context))
    app.mount("/account", piapi.create_account_app(context))
    app.mount("/admin", create_admin_app(context))
    app.include_router(files.router(context))

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
    async def refuse(_request: Request, error: FluxserveError) -> JSONResponse:
        return JSONResponse({"error": error.message}, 404 if isinstance(error, NotFound) else 503)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        # A line break in a path keeps it from its mount; the answer is the dialect's all the same.
        if request.url.path.startswith(("/api/", "/account/")):
            return await piapi.no_route(request, error)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    return app
