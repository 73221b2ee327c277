"""The log of a task's webhook, and sending it again. The vendor has neither."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fluxserve.api.context import Context
from fluxserve.api.dialects.piapi.answers import moment
from fluxserve.api.reading import caller_of
from fluxserve.tasks import DeliveryLog


def delivery_routes(app: FastAPI, context: Context) -> None:
    @app.get("/v1/task/{task_id}/webhook", summary="Every attempt to send a task's webhook")
    async def log(task_id: str, request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        return JSONResponse(_answer(await context.outbox.log(caller.account_id, task_id)))

    @app.post("/v1/task/{task_id}/webhook", summary="Send a task's webhook again, at once")
    async def resend(task_id: str, request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        return JSONResponse(_answer(await context.outbox.resend(caller.account_id, task_id)))


def _answer(log: DeliveryLog) -> dict[str, Any]:
    data = {
        "id": log.id,
        "endpoint": log.url,
        "created_at": moment(log.created_at),
        "delivered_at": moment(log.delivered_at),
        "next_at": moment(log.next_at),
        "attempts": [
            {
                "at": moment(each.at),
                "seconds": round(each.seconds, 3),
                "status": each.status or 0,
                "error": each.error or "",
            }
            for each in log.attempts
        ],
    }
    return {"code": 200, "data": data, "message": "success"}
