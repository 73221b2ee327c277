"""The account as the vendor shows it: what it has, what it is waiting for, and what it has asked for before."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from fluxserve.api.context import Context
from fluxserve.api.describing import query_of
from fluxserve.api.dialects.piapi.answers import consumed, frozen, moment, task_data
from fluxserve.api.dialects.piapi.requests import VENDOR, HistoryQuery
from fluxserve.api.dialects.piapi.sub_app import sub_app
from fluxserve.api.reading import caller_of, checked, query_values
from fluxserve.domain.credits import usd
from fluxserve.domain.task import Output, State, Task
from fluxserve.tasks import Account, Sought

SERVICE = "flux"


def create_account_app(context: Context) -> FastAPI:
    """The sub-application for everything under /account."""
    app = sub_app("PiAPI's account API", "Send your key as `X-API-Key` or as `Authorization: Bearer`.")

    def picture_url(output: Output) -> str:
        return context.picture_url(output.id, output.key)

    @app.get("/info", summary="The account, and what it can still spend")
    async def info(request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        account = await context.accounts.get(caller.account_id)
        return JSONResponse({"code": 200, "data": _account_data(account), "message": "success"})

    @app.get("/active_tasks", summary="The tasks that have not ended")
    async def active_tasks(request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        tasks = await context.queue.open_tasks(caller.account_id)
        counts = {
            f"{state}_count": sum(task.state is state for task in tasks)
            for state in (State.STAGED, State.PENDING, State.PROCESSING)
        }
        active = [task_data(task, picture_url) for task in tasks]
        return JSONResponse({"code": 200, "data": {SERVICE: {**counts, "active_tasks": active}}, "message": "success"})

    return app


def history_routes(app: FastAPI, context: Context, picture_url: Callable[[Output], str]) -> None:
    @app.get(
        "/open/tasks/histories",
        summary="All tasks, newest first, a page at a time",
        openapi_extra=query_of(HistoryQuery),
    )
    async def histories(request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        query = checked(HistoryQuery, query_values(request))
        sought = Sought(query.model and query.model.removeprefix(VENDOR), query.start_time, query.end_time)
        page = await context.queue.history(caller.account_id, sought, query.page, query.page_size)
        return JSONResponse(
            {
                "code": 200,
                "data": {
                    "data": [_record(task, picture_url) for task in page.tasks],
                    "page": query.page,
                    "size": query.page_size,
                    "total": page.total,
                },
                "message": "success",
            }
        )


def _account_data(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.name,
        "account_id": account.id,
        "account_name": account.name,
        "plan": "",
        "type": "",
        "platform": "fluxserve",
        "is_enable": True,
        "is_verified": True,
        "max_concurrent_task_count": account.max_concurrent,
        "equivalent_in_usd": usd(account.balance),
        "wallet": {"point_remain": account.balance, "mj_remain": 0},
        "credit_pack_info": None,
        "notification_hook_url": "",
        "created_at": moment(account.created_at),
        "updated_at": moment(account.created_at),
    }


def _record(task: Task, picture_url: Callable[[Output], str]) -> dict[str, Any]:
    """A task as one line of the history."""
    shown = task_data(task, picture_url)
    return {
        "id": task.id,
        "task_id": task.id,
        "task_model": shown["model"],
        "action": shown["task_type"],
        "status": shown["status"],
        "usage": consumed(task) or frozen(task),
        "usage_type": "point",
        "service_mode": "private" if task.is_private else "public",
        "account_id": task.account_id,
        "api_key_id": task.api_key_id or "",
        "detail": {name: shown[name] for name in ("model", "task_type", "task_id", "output")},
        "created_at": shown["meta"]["created_at"],
        "updated_at": moment(task.updated_at),
        "deleted_at": None,
    }
