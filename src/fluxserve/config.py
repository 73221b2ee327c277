"""Every setting, once: its name, its default, its meaning. The only file that reads the environment or a settings file.

One frozen group a room. A value comes from a flag, else from the environment, else from the TOML file that
FLUXSERVE_CONFIG names, else it is the default here:

    FLUXSERVE_PORT=9000                      in the environment
    [server]
    port = 9000                              in the file

Field names are unique over all groups, so that each has one environment name. ``docs/settings.md`` describes them all,
and a test holds it to that.
"""

import json
import os
import re
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

PREFIX = "FLUXSERVE_"
CONFIG_FILE = f"{PREFIX}CONFIG"
EVERYWHERE = ("0.0.0.0", "::")  # to listen there is to listen at every address of the machine
ANY_NETWORK = (ip_network("0.0.0.0/0"), ip_network("::/0"))
HOST_NAME = re.compile(r"\*|[\w.-]+|\[[0-9a-f:.]+\]", re.IGNORECASE)
ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")


class Group(BaseModel):
    """Some settings that belong to one room."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Group):
    host: str = Field("127.0.0.1", description="The address to listen at.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen at; 0 takes any free one.")
    public_url: str | None = Field(
        None, description="The address that callers reach us at, for the links in answers. Unset: from host and port."
    )
    hosts: str = Field(
        "",
        description='Names that requests may have in their Host header, by commas, without ports; "*" is any. Empty: '
        "localhost, the host listened at and that of public_url; at 0.0.0.0 or :: also any IP address.",
    )
    origins: str = Field(
        "",
        description="Origins elsewhere whose web pages may call us, by commas: "
        '"https://shop.example.com,http://localhost:3000". Empty: only our own pages.',
    )
    request_seconds: float = Field(
        20.0,
        gt=0,
        description="Time that a request may take to arrive, a connection's first one counted from its opening.",
    )
    connections_of_one: int = Field(
        256, ge=1, description="Connections that one client may have open. A proxy is one client for all of its own."
    )
    requests_per_minute: int = Field(6000, ge=0, description="Requests a minute with one key; then 429. 0: no limit.")
    data_dir: Path = Field(Path("data"), description="Where the database and the pictures live.")
    database_url: SecretStr | None = Field(
        None,
        description="A PostgreSQL database, postgresql://user:password@host/name, that several servers may share. "
        "Unset: SQLite in the data folder.",
    )
    pictures_folder: Path | None = Field(
        None, description="Where pictures lie, if not in the data folder: servers that share a database share it."
    )
    least_free_bytes: int = Field(
        1_000_000_000,
        ge=0,
        description="Bytes to stay free where the database and the pictures lie, or 5 % of that disk if that is less; "
        "while they are not, nothing new is accepted.",
    )
    stop_seconds: float = Field(
        30.0, ge=0, description="How long a stop waits for pictures being drawn before it gives them back to the queue."
    )
    wait_seconds: float = Field(
        300.0,
        gt=0,
        description="How long a caller of OpenAI's and Segmind's APIs is kept waiting for a picture; then 504, and the "
        "task goes on.",
    )
    largest_body: int = Field(32_000_000, ge=1000, description="Bytes of a request's body that are read at most.")

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith(("http://", "https://")) and urlsplit(value).hostname):
            raise ValueError("allowed is an address such as https://pictures.example.com")
        return value

    @field_validator("hosts")
    @classmethod
    def _are_host_names(cls, value: str) -> str:
        for name in _listed(value):
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name} is not allowed; allowed is a name or an address without a port, or *")
        return value

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _listed(value):
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is not allowed; allowed is http:// or https://, a name in small letters and perhaps a "
                    "port, and nothing after it"
                )
        return value

    @property
    def host_names(self) -> frozenset[str]:
        """What a request's Host header may name, in small letters."""
        if names := _listed(self.hosts.lower()):
            return frozenset(names)
        ours = ("localhost", "127.0.0.1", "::1", self.host.lower(), urlsplit(self.public_url or "").hostname)
        return frozenset(f"[{name}]" if ":" in name else name for name in ours if name)

    @property
    def takes_any_address(self) -> bool:
        """Whether a request's Host header may name any IP address."""
        return not _listed(self.hosts) and self.host in EVERYWHERE

    @property
    def allowed_origins(self) -> frozenset[str]:
        return frozenset(_listed(self.origins))


class AccountSettings(Group):
    api_key: SecretStr | None = Field(
        None, description="The first account's key. Unset: one is made at the first start and shown once."
    )
    admin_key: SecretStr | None = Field(None, description="The key that opens /admin. Unset: /admin is closed.")
    first_credits_usd: float = Field(1000.0, ge=0, description="US$ that the first account starts with.")
    first_concurrency: int = Field(16, ge=1, description="Tasks of the first account that wait or run at once.")


class QueueSettings(Group):
    lease_seconds: float = Field(30.0, gt=0, description="How long a task stays its worker's without a sign of life.")
    losses_allowed: int = Field(3, ge=1, description="Lost workers after which a task fails.")
    most_staged: int = Field(50, ge=0, description="Tasks over an account's concurrency that wait; then 429.")
    most_waiting: int = Field(100_000, ge=1, description="Tasks of all accounts that wait; then 429.")
    deadline_seconds: float = Field(
        86_400.0, gt=0, description="A task that has not ended so long after it was created fails, and costs nothing."
    )


class PriceSettings(Group):
    """Points for one picture of each product: of PiAPI's models, or as the other doors sell them."""

    price_schnell: int = Field(20_000, ge=0, description="Points for a picture of flux1-schnell; US$ 1 is 10,000,000.")
    price_dev: int = Field(150_000, ge=0, description="Points for a picture of flux1-dev.")
    price_dev_advanced: int = Field(200_000, ge=0, description="Points for a picture of flux1-dev-advanced.")

    price_fill_dev: int = Field(200_000, ge=0, description="Points for a picture of Segmind's flux-fill-dev.")
    price_gpt_4o_image: int = Field(200_000, ge=0, description="Points for a picture of gpt-4o-image.")
    price_gpt_4o_image_without: int = Field(
        6_600, ge=0, description="Points for an answer of gpt-4o-image that has no picture, where it is relayed."
    )
    price_image_low: int = Field(110_000, ge=0, description="Points for a square picture of gpt-image-1, quality low.")
    price_image_low_oblong: int = Field(160_000, ge=0, description="The same, 1536x1024 or 1024x1536.")
    price_image_medium: int = Field(420_000, ge=0, description="The same as price_image_low, quality medium.")
    price_image_medium_oblong: int = Field(630_000, ge=0, description="The same, 1536x1024 or 1024x1536.")
    price_image_high: int = Field(1_670_000, ge=0, description="The same as price_image_low, quality high.")
    price_image_high_oblong: int = Field(2_500_000, ge=0, description="The same, 1536x1024 or 1024x1536.")

    @property
    def of_products(self) -> dict[str, int]:
        """By the names of `Submission.product`."""
        return {
            "flux1-schnell": self.price_schnell,
            "flux1-dev": self.price_dev,
            "flux1-dev-advanced": self.price_dev_advanced,
            "flux-fill-dev": self.price_fill_dev,
            "gpt-4o-image": self.price_gpt_4o_image,
            "gpt-image-1 low": self.price_image_low,
            "gpt-image-1 low oblong": self.price_image_low_oblong,
            "gpt-image-1 medium": self.price_image_medium,
            "gpt-image-1 medium oblong": self.price_image_medium_oblong,
            "gpt-image-1 high": self.price_image_high,
            "gpt-image-1 high oblong": self.price_image_high_oblong,
        }


class ImageSettings(Group):
    image_qualities: str = Field(
        "low=flux1-schnell:4,medium=flux1-dev:20,high=flux1-dev:28",
        description="What OpenAI's qualities are drawn with, by commas: QUALITY=MODEL:STEPS for low, medium and high.",
    )


class WebhookSettings(Group):
    webhook_gaps: str = Field(
        "5,5,30,120,600,1800,3600,7200,14400,28800,28800",
        description="Seconds between the attempts to send a webhook, by commas; after the last one it is given up.",
    )
    webhook_seconds: float = Field(15.0, gt=0, description="How long a receiver may take to answer a webhook.")
    webhook_allow_private: bool = Field(
        False, description="Whether webhooks may go to private addresses, and to any port."
    )

    @field_validator("webhook_gaps")
    @classmethod
    def _are_seconds(cls, value: str) -> str:
        if not all(0 <= float(gap) < inf for gap in value.split(",") if gap.strip()):
            raise ValueError("a gap is no number of seconds")
        return value

    @property
    def gaps(self) -> tuple[float, ...]:
        return tuple(float(gap) for gap in self.webhook_gaps.split(",") if gap.strip())

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return ANY_NETWORK if self.webhook_allow_private else ()


class InputSettings(Group):
    most_uploads: int = Field(
        500, ge=1, description="Uploads of one account that are kept at once, each for a day; then 429."
    )
    largest_picture: int = Field(20_000_000, ge=1000, description="Bytes of a caller's picture that are taken at most.")
    fetch_seconds: float = Field(30.0, gt=0, description="How long the fetching of a caller's picture may take.")
    fetch_allow_private: bool = Field(
        False, description="Whether callers' pictures may be fetched from private addresses, and from any port."
    )
    fetch_networks: str = Field(
        "",
        description="Networks of your own that callers' pictures may be fetched from, by commas: "
        '"10.0.0.0/8,192.168.1.7/32". Otherwise only the public internet.',
    )

    @field_validator("fetch_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in _listed(value):
            ip_network(network)
        return value

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        if self.fetch_allow_private:
            return ANY_NETWORK
        return tuple(ip_network(network) for network in _listed(self.fetch_networks))


class OutputSettings(Group):
    keep_hours: float = Field(24.0, gt=0, description="How long a finished picture can be fetched.")


class EngineSettings(Group):
    family: Literal["mini", "flux1"] = Field(
        "mini", description="Which weights draw: the small ones that ship with fluxserve, or what is here of FLUX.1's."
    )
    weights_folder: Path | None = Field(
        None,
        description="Where weights are pulled to and found. Unset: fluxserve/models in the folder that XDG_DATA_HOME "
        "names, or in ~/.local/share.",
    )
    lora_folder: Path | None = Field(
        None, description="A folder of your own LoRAs: name.safetensors is asked for as name."
    )
    devices: str = Field(
        "auto",
        description='Devices to draw on, one worker each, by commas: "cpu", "cuda:0,cuda:1", "mps"; or "auto": every '
        "GPU that there is, else the CPU.",
    )
    pool: str = Field(
        "public",
        description='Whom the devices draw for: "public" for everybody, an account\'s id for its private tasks alone, '
        'or some devices by name: "public,cuda:1=ACCOUNT".',
    )
    speed: Literal["exact", "fast", "fastest"] = Field(
        "exact",
        description='How much of a picture\'s exactness may be given for time: "exact" for none, "fast" or "fastest"; '
        "docs/speed.md has what each costs and brings.",
    )
    compilation: Literal["auto", "on", "off"] = Field(
        "auto",
        description='Whether networks are compiled, which takes a minute at the first start: "auto" on CUDA only.',
    )
    compiled_folder: Path | None = Field(
        None,
        description="Where compiled networks are kept, so that the next start is a quick one. Unset: "
        "fluxserve/compiled in the folder that XDG_CACHE_HOME names, or in ~/.cache.",
    )
    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = Field(
        "auto",
        description='The kernel of attention on CUDA: "cudnn", "flash", "efficient" or "math"; "auto" leaves it '
        "to PyTorch, which knows the card.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of each worker; 0 leaves it to torch.")
    silence_seconds: float = Field(15.0, gt=0, description="A worker that says nothing for so long is replaced.")
    stall_seconds: float = Field(
        300.0,
        gt=0,
        description="A worker whose job makes no step for so long is replaced; also the time to load models.",
    )

    @property
    def weights_dir(self) -> Path:
        home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        return (self.weights_folder or Path(home) / "fluxserve" / "models").expanduser()

    @property
    def compiled_dir(self) -> Path:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return (self.compiled_folder or Path(home) / "fluxserve" / "compiled").expanduser()

    def pool_of(self, device: str) -> str:
        """The pool that `device` draws for."""
        named = dict(part.rsplit("=", 1) for part in self._parts if "=" in part)
        of_others = next((part for part in self._parts if "=" not in part), "public")
        return named.get(device, of_others)

    @property
    def _parts(self) -> list[str]:
        return [part.strip() for part in self.pool.split(",") if part.strip()]


class UpstreamSettings(Group):
    """A server that answers as OpenAI's does."""

    url: str = Field(description="Its address before /chat/completions or /images: https://api.openai.com/v1.")
    key: SecretStr | None = Field(None, description="The key that it wants, sent as Authorization: Bearer.")
    connect_seconds: float = Field(5.0, gt=0, description="How long a connection to it may take.")
    first_byte_seconds: float = Field(
        60.0, gt=0, description="How long it may be silent before a stream begins; then the next upstream is tried."
    )
    gap_seconds: float = Field(60.0, gt=0, description="How long it may be silent within a stream; then that is over.")
    answer_seconds: float = Field(
        600.0, gt=0, description="How long an answer may take in all, and until one that is no stream is there."
    )

    @field_validator("url")
    @classmethod
    def _is_web_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("allowed is an http or https address such as https://api.openai.com/v1")
        if parts.username or parts.password:
            raise ValueError("allowed is an address without a user name or password; a key belongs into key")
        return value.rstrip("/")

    @field_validator("key")
    @classmethod
    def _can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        secret = value.get_secret_value() if value else "a"
        if not (secret.isascii() and secret.isprintable() and secret == secret.strip() and secret):
            raise ValueError("allowed are printable ASCII characters, no space first or last")
        return value


class RelayedModelSettings(Group):
    """A model, and who answers for it."""

    upstreams: tuple[str, ...] = Field(min_length=1, description="Names of upstreams, in the order they are tried.")
    upstream_model: str | None = Field(None, min_length=1, description="Its name there, if it is another.")
    input_usd: float = Field(0.0, ge=0, le=1e6, description="US$ for 1,000,000 tokens of a prompt.")
    output_usd: float = Field(0.0, ge=0, le=1e6, description="US$ for 1,000,000 tokens of a completion.")
    picture_usd: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="US$ for a picture. Unset: what one costs when it is drawn here, if that model is; 0 where tokens "
        "have a price.",
    )
    minimum_usd: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="US$ that an answer costs at least. Unset: 0, and for gpt-4o-image price_gpt_4o_image_without.",
    )
    most_output_tokens: int = Field(
        16_384, ge=1, description="Tokens that are paid for at most where a request does not say how many it wants."
    )


class RelaySettings(Group):
    upstreams: dict[str, UpstreamSettings] = Field(
        {}, description="Servers that answer as OpenAI's does, by names of your own."
    )
    relayed_models: dict[str, RelayedModelSettings] = Field(
        {}, description="Models by the names that callers use, each with the upstreams that answer for it."
    )

    @field_validator("upstreams", "relayed_models", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        """In the environment they are written as JSON."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("it is not JSON") from None

    @model_validator(mode="after")
    def _are_known(self) -> "RelaySettings":
        for name, model in self.relayed_models.items():
            for upstream in model.upstreams:
                if upstream not in self.upstreams:
                    known = ", ".join(self.upstreams) or "none, for there are no upstreams"
                    raise ValueError(f"relayed_models.{name}: there is no upstream {upstream}; allowed is {known}")
        return self


class Settings(Group):
    """All groups together; `load` makes it."""

    server: ServerSettings = ServerSettings()
    account: AccountSettings = AccountSettings()
    queue: QueueSettings = QueueSettings()
    price: PriceSettings = PriceSettings()
    image: ImageSettings = ImageSettings()
    webhook: WebhookSettings = WebhookSettings()
    input: InputSettings = InputSettings()
    output: OutputSettings = OutputSettings()
    engine: EngineSettings = EngineSettings()
    relay: RelaySettings = RelaySettings()

    @property
    def database_address(self) -> str | None:
        """Of a PostgreSQL database, if one is set."""
        return self.server.database_url.get_secret_value() if self.server.database_url else None

    @property
    def database_path(self) -> Path:
        return self.server.data_dir / "fluxserve.sqlite"

    @property
    def pictures_dir(self) -> Path:
        return self.server.pictures_folder or self.server.data_dir / "pictures"


def civitai_token() -> str | None:
    """What opens Civitai to somebody's account; it has the name that other programs know, as the hub's HF_TOKEN has."""
    return os.environ.get("CIVITAI_TOKEN") or None


class SettingsError(Exception):
    """A setting has a value that is not allowed; the message names it and where it came from."""


def load(environment: dict[str, str] | None = None, **flags: Any) -> Settings:
    """Fold flags, environment, file and defaults; flags that are None are unset."""
    environment = dict(os.environ) if environment is None else environment
    groups, came_from = _from_file(environment.get(CONFIG_FILE))
    for group, field in every_setting():
        variable = f"{PREFIX}{field.upper()}"
        if environment.get(variable):
            groups.setdefault(group, {})[field] = environment[variable]
            came_from[group, field] = variable
        if flags.get(field) is not None:
            groups.setdefault(group, {})[field] = flags[field]
            came_from[group, field] = f"--{field.replace('_', '-')}"
    try:
        return Settings.model_validate(groups)
    except ValidationError as error:
        raise SettingsError("; ".join(_explained(dict(each), came_from) for each in error.errors())) from None


def every_setting() -> list[tuple[str, str]]:
    """(group, field) of each setting."""
    return [
        (group, field)
        for group, info in Settings.model_fields.items()
        if isinstance(info.default, Group)
        for field in type(info.default).model_fields
    ]


def _from_file(path: str | None) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], str]]:
    if not path:
        return {}, {}
    try:
        groups = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise SettingsError(f"{CONFIG_FILE}: {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{CONFIG_FILE}: {path} is not TOML: {error}") from None
    for group, fields in groups.items():
        if not isinstance(fields, dict):
            raise SettingsError(f"{path}: {group} stands outside a table; settings are in [server], [queue] and so on")
    return groups, {(group, field): path for group, fields in groups.items() for field in fields}


def _explained(error: dict[str, Any], came_from: dict[tuple[str, str], str]) -> str:
    place = tuple(str(part) for part in error["loc"])
    source = came_from.get((place[0], place[1]), "") if len(place) > 1 else ""
    # What is wrong with an upstream may hold its key, or be it under a wrong name.
    is_secret = "key" in place[-1] or place == ("relay",) or place[:2] == ("relay", "upstreams")
    value = "" if is_secret else f" = {error['input']!r}"
    return f"{'.'.join(place)}{value}{f' (from {source})' if source else ''}: {error['msg']}"


def _listed(value: str) -> list[str]:
    """The items of a list that is written with commas."""
    return [item.strip() for item in value.split(",") if item.strip()]
