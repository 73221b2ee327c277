"""The composition root: every part is built here, by hand, started in order and stopped in order."""

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import IO

import uvicorn

from fluxserve.api import Arrival, ArrivalRules, Context, Hosts, Inputs, Rates, Switchboard, create_app, refusal
from fluxserve.api.dialects.piapi import webhook_body
from fluxserve.config import EVERYWHERE, EngineSettings, PriceSettings, RelayedModelSettings, RelaySettings, Settings
from fluxserve.dispatch import Dispatcher, Upkeep
from fluxserve.domain.catalog import LORA_FILES, PICTURE_KINDS, Means, Quality, abilities, product_of, qualities_of
from fluxserve.domain.completion import Rate
from fluxserve.domain.credits import points
from fluxserve.domain.errors import InvalidInput
from fluxserve.executors import LocalExecutor
from fluxserve.executors.devices import devices_of
from fluxserve.executors.local import WorkerCommand
from fluxserve.executors.workers import has, worker_commands
from fluxserve.relay import Relay, Route, Upstream
from fluxserve.storage import OWNER_FILE, Fetcher, GuardedBackend, Opener, Room, Shelf
from fluxserve.tasks import (
    Account,
    Accounts,
    Completions,
    Database,
    DatabaseError,
    Listener,
    Outbox,
    Queue,
    Rules,
    Signals,
    open_database,
)
from fluxserve.tasks.accounts import new_key
from fluxserve.webhooks import Sender
from fluxserve.weights import NotHereError

log = logging.getLogger(__name__)

UPKEEP_EVERY = 5.0  # seconds
LAST_REQUESTS_SECONDS = 5  # that a stop leaves to a request under way, whose client may be slow or gone
KEY_FILE = "first_key"
# That a thread waits for the interpreter while another has it. The one that writes to the database needs it anew after
# each call of SQLite's: with Python's own 5 ms, a commit beside a flood of requests took seconds.
SWITCH_SECONDS = 0.0005


class StartError(Exception):
    """The server can't start; the message says what to do."""


class Server:
    """All parts of one running server.

    `announce` is called once it listens, with its address and the first key, or None for a key that the settings gave:
    such a one is not for the log.
    """

    def __init__(self, settings: Settings, announce: Callable[[str, str | None], None]) -> None:
        self._settings = settings
        self._announce = announce
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, stop. A second signal stops without waiting for running tasks."""
        settings = self._settings
        workers = await _workers(settings.engine)
        settings.server.data_dir.mkdir(parents=True, exist_ok=True)
        with _only_server_of(settings), _listening(settings) as listener:
            url = (settings.server.public_url or _address(listener)).rstrip("/")
            database = _opened(settings)
            signals = Signals(database)
            listener_of_others = Listener(database, signals) if database.is_shared else None
            accounts = Accounts(database, signals)
            outbox = Outbox(database, signals)
            shelf = Shelf(settings.pictures_dir)
            room = Room((settings.server.data_dir, settings.pictures_dir), settings.server.least_free_bytes)
            queue = Queue(
                database,
                Rules(
                    lease_seconds=settings.queue.lease_seconds,
                    losses_allowed=settings.queue.losses_allowed,
                    most_staged=settings.queue.most_staged,
                    most_waiting=settings.queue.most_waiting,
                    most_uploads=settings.input.most_uploads,
                    deadline_seconds=settings.queue.deadline_seconds,
                    prices=settings.price.of_products,
                ),
                signals,
                check_room=room.check,
            )
            executor = LocalExecutor(
                workers,
                silence_seconds=settings.engine.silence_seconds,
                stall_seconds=settings.engine.stall_seconds,
            )
            opener = Opener()
            inputs = Inputs(
                shelf=shelf,
                queue=queue,
                fetcher=Fetcher(
                    GuardedBackend(settings.input.networks),
                    most_bytes=settings.input.largest_picture,
                    seconds=settings.input.fetch_seconds,
                ),
                opener=opener,
                own_pictures=f"{url}/files/",
                largest=settings.input.largest_picture,
                check_room=room.check,
            )
            dispatcher = Dispatcher(
                queue=queue,
                executor=executor,
                shelf=shelf,
                keep_seconds=settings.output.keep_hours * 3600,
                renew_every=settings.queue.lease_seconds / 3,
            )
            completions = Completions(database, lease_seconds=settings.queue.lease_seconds, check_room=room.check)
            upkeep = Upkeep(queue=queue, completions=completions, shelf=shelf, every=UPKEEP_EVERY)
            switchboard = Switchboard(
                relay=Relay(_routes(settings.relay, settings.price)),
                completions=completions,
                renew_every=settings.queue.lease_seconds / 3,
            )
            context = Context(
                queue=queue,
                accounts=accounts,
                outbox=outbox,
                shelf=shelf,
                inputs=inputs,
                switchboard=switchboard,
                rates=Rates(settings.server.requests_per_minute),
                hosts=Hosts(settings.server.host_names, settings.server.takes_any_address),
                origins=settings.server.allowed_origins,
                public_url=url,
                largest_body=settings.server.largest_body,
                wait_seconds=settings.server.wait_seconds,
                qualities=_qualities(settings),
                abilities=abilities(settings.engine.family, lambda source: has(settings.engine, source)),
                lora_names=lambda: _lora_names(settings.engine),
                can_draw=lambda: executor.can_draw,
                doing=lambda: executor.doing,
                admin_key=settings.account.admin_key.get_secret_value() if settings.account.admin_key else None,
            )
            app = create_app(context)
            sender = Sender(
                outbox=outbox,
                render=lambda task, now: webhook_body(
                    task, now, lambda output: context.picture_url(output.id, output.key)
                ),
                backend=GuardedBackend(settings.webhook.networks),
                gaps=settings.webhook.gaps,
                seconds=settings.webhook.webhook_seconds,
            )

            account = await accounts.ensure_first(
                credits_usd=settings.account.first_credits_usd, max_concurrent=settings.account.first_concurrency
            )
            if database.is_shared or settings.server.pictures_folder is not None:
                await self._check_folder(shelf, queue, account, database.is_shared)
            key = await self._first_key(accounts, account)
            for finding in await queue.audit():
                log.error("audit: %s", finding)
            if not database.is_shared:
                # This folder is ours alone, so whatever an earlier server was drawing, nobody draws any more.
                for task in await queue.rescue(everything=True):
                    log.warning("task %s was left by an earlier server: it is %s again", task.id, task.state)
                for completion in await completions.rescue(everything=True):
                    log.warning("completion %s was left by an earlier server: it costs nothing", completion.id)
                await upkeep.clear_up(untouched_seconds=0)
            if listener_of_others is not None:
                listener_of_others.start()
            executor.start()
            dispatcher.start()
            upkeep.start()
            sender.start()
            switchboard.start()
            signals.give_all()

            # What was made until now stays. To look through it for what is left over would take 90 ms each time, in
            # which nobody is answered.
            gc.collect()
            gc.freeze()
            sys.setswitchinterval(SWITCH_SECONDS)
            self._announce(url, key)
            rules = ArrivalRules(settings.server.request_seconds, settings.server.connections_of_one, refusal)
            config = uvicorn.Config(
                app,
                http=partial(Arrival, rules),  # type: ignore[arg-type]  # it is called as a class would be
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=LAST_REQUESTS_SECONDS,
            )
            await self._serve_http(config, listener)

            await switchboard.stop()
            await upkeep.stop()
            await dispatcher.stop(settings.server.stop_seconds, self._hurry)
            await executor.stop()
            await sender.stop()
            if listener_of_others is not None:
                await listener_of_others.stop()
            await opener.stop()
            database.close()

    async def _serve_http(self, config: uvicorn.Config, listener: socket.socket) -> None:
        server = _QuietUvicorn(config)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if server.should_exit:
                self._hurry.set()
                server.force_exit = True
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await server.serve(sockets=[listener])

    async def _check_folder(self, shelf: Shelf, queue: Queue, account: Account, is_shared: bool) -> None:
        """One database's pictures lie in one folder, which bears the id of its first account. Raises `StartError`.

        In a folder of its own a server would miss the pictures that others draw; in another database's, it would clear
        them up.
        """
        if shelf.owner is None and not (is_shared and await queue.has_tasks()):
            shelf.own(account.id)
        if shelf.owner == account.id:
            return
        folder = self._settings.pictures_dir.resolve()
        what = "does not hold" if shelf.owner is None else "holds the pictures of another database, not"
        raise StartError(
            f"{folder} {what} the pictures of this database; FLUXSERVE_PICTURES_FOLDER names the folder that all "
            f"servers on one database share. If it is the right one and was restored or moved, write {account.id} to "
            f"{folder / OWNER_FILE}"
        )

    async def _first_key(self, accounts: Accounts, account: Account) -> str | None:
        """Set the key from the settings; else that which an earlier start made and kept in a file; else a new one.

        Returns it unless it came from the settings.
        """
        file = self._settings.server.data_dir / KEY_FILE
        if self._settings.account.api_key is not None:
            file.unlink(missing_ok=True)
            await accounts.set_first_key(account.id, self._settings.account.api_key.get_secret_value())
            return None
        is_new = not file.exists()
        if is_new:  # before the database knows of it: a crash must not leave a key that nobody was shown
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as writing:
                writing.write(new_key() + "\n")
        key = file.read_text().strip()
        if await accounts.offer_first_key(account.id, key):
            return key
        if is_new:
            file.unlink()
        return None  # another server on this database showed its own; `fluxserve keys create` makes one more


async def _workers(settings: EngineSettings) -> list[WorkerCommand]:
    """Raises `StartError`."""
    try:
        return worker_commands(settings, await devices_of(settings.devices))
    except NotHereError as error:
        raise StartError(str(error)) from None


def _qualities(settings: Settings) -> Mapping[Quality, Means]:
    """Raises `StartError`."""
    try:
        return qualities_of(settings.image.image_qualities)
    except InvalidInput as error:
        raise StartError(error.message) from None


def _opened(settings: Settings) -> Database:
    """Raises `StartError`."""
    try:
        return open_database(settings.database_address, settings.database_path)
    except DatabaseError as error:
        raise StartError(str(error)) from None


class _QuietUvicorn(uvicorn.Server):
    """Leaves signals to us: a stop is ours to order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _only_server_of(settings: Settings) -> Iterator[None]:
    """A lock on the data folder that the system lets go of when we end, however we end."""
    lock: IO[str]
    with (settings.server.data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another fluxserve is using {settings.server.data_dir.resolve()}; stop it, or give this one a folder "
                "of its own by FLUXSERVE_DATA_DIR"
            ) from None
        yield


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise StartError(
            f"can't listen at {host} port {port}: {error.strerror}; FLUXSERVE_PORT chooses another"
        ) from None
    with listener:
        # Each connection inherits it. asyncio sets it only where the protocol was named, as create_server does not; an
        # answer's body would then wait for the caller's delayed acknowledgement of its head: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in EVERYWHERE:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _lora_names(settings: EngineSettings) -> frozenset[str]:
    """Those of the catalogue, and of the person's own folder, that are here at this moment."""
    own = settings.lora_folder.glob("*.safetensors") if settings.lora_folder else ()
    here = (name for name, source in LORA_FILES[settings.family].items() if has(settings, source))
    return frozenset(here) | {path.stem for path in own}


def _routes(settings: RelaySettings, prices: PriceSettings) -> list[Route]:
    upstreams = {
        name: Upstream(
            name,
            each.url,
            each.key.get_secret_value() if each.key else None,
            connect_seconds=each.connect_seconds,
            first_byte_seconds=each.first_byte_seconds,
            gap_seconds=each.gap_seconds,
            answer_seconds=each.answer_seconds,
        )
        for name, each in settings.upstreams.items()
    }
    return [
        Route(
            model=name,
            upstreams=tuple(upstreams[upstream] for upstream in each.upstreams),
            rate=rate_of(name, each, prices),
            upstream_model=each.upstream_model or name,
            most_output_tokens=each.most_output_tokens,
        )
        for name, each in settings.relayed_models.items()
    ]


def rate_of(model: str, settings: RelayedModelSettings, prices: PriceSettings) -> Rate:
    """A picture costs what one drawn here does, where nothing else is said."""
    tokens = points(settings.input_usd), points(settings.output_usd)
    minimum = prices.price_gpt_4o_image_without if model == "gpt-4o-image" else 0
    if settings.minimum_usd is not None:
        minimum = points(settings.minimum_usd)
    if settings.picture_usd is not None:
        pictures = dict.fromkeys(PICTURE_KINDS, points(settings.picture_usd))
    elif any(tokens):
        pictures = {}
    else:
        pictures = {kind: prices.of_products.get(product_of(model, kind), 0) for kind in PICTURE_KINDS}
    return Rate(*tokens, minimum, pictures)
