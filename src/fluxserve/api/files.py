"""Finished and uploaded pictures at their addresses. The 128 random bits of the address are the right to fetch it."""

import re
import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from fluxserve.api.context import Context
from fluxserve.domain.errors import NotFound

NAME = re.compile(r"([0-9a-f]{32})\.(png|jpeg|webp)")
SAFE = {
    # A picture is a picture, whatever its bytes might be taken for; and it can load or run nothing.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Referrer-Policy": "no-referrer",
}

PICTURE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {f"image/{kind}": {} for kind in ("png", "jpeg", "webp")}, "description": "The picture"},
}


def router(context: Context) -> APIRouter:
    routes = APIRouter()

    @routes.head("/files/{name}", include_in_schema=False)
    @routes.get(
        "/files/{name}",
        summary="A finished or uploaded picture, until it expires",
        response_class=FileResponse,
        responses=PICTURE_RESPONSES,
    )
    async def picture(name: str) -> FileResponse:
        parts = NAME.fullmatch(name)
        if parts is None:
            raise NotFound("no picture has this address, or it has expired")
        stored = await context.queue.stored(parts[1])
        path = context.shelf.path(stored.key)
        if path.suffix != f".{parts[2]}" or not path.exists():
            raise NotFound("no picture has this address, or it has expired")
        left = max(0, int(stored.expires_at - time.time()))
        return FileResponse(
            path,
            media_type=f"image/{parts[2]}",
            headers={
                **SAFE,
                "Cache-Control": f"private, immutable, max-age={left}",
                "Content-Disposition": f'inline; filename="{name}"',
            },
        )

    return routes
