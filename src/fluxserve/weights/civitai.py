"""What Civitai has of a package, by its public API, and what its refusals mean."""

from pathlib import PurePosixPath
from typing import Any

import httpx2

from fluxserve.domain.weights import ENDINGS, Civitai, Package
from fluxserve.weights.download import TIMEOUT, Remote, StatusError
from fluxserve.weights.errors import PullError
from fluxserve.weights.listing import Listing

ADDRESS = "https://civitai.com"
BASE = "Flux.1"  # what the names of the models that these LoRAs are for begin with


class CivitaiStore:
    """`token` opens what its makers give only to people with an account. `version` is one that a person chose by its
    id; None is the newest for FLUX.1."""

    def __init__(self, token: str | None = None, version: int | None = None, address: str = ADDRESS) -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._version = version
        self._address = address

    def listing(self, package: Package) -> Listing:
        """The one file of a version. Raises `StatusError` or `PullError`."""
        model = _source(package).model
        if self._version is None:
            version = _newest(self._ask(package, f"models/{model}").get("modelVersions") or [], package)
        else:
            version = self._ask(package, f"model-versions/{self._version}")
            if version.get("modelId") != model:
                raise PullError(f"version {self._version} is none of {package.name}, {_source(package).page}")
            if not str(version.get("baseModel")).startswith(BASE):
                raise PullError(f"version {self._version} of {package.name} is for {version.get('baseModel')}")
        file = _weights_of(version, package)
        remote = Remote(
            name=f"{package.name}{PurePosixPath(file['name']).suffix.lower()}",
            url=file["downloadUrl"],
            size=round(float(file.get("sizeKB", 0)) * 1024),
            sha256=file["hashes"]["SHA256"].lower(),
        )
        return Listing(revision=str(version["id"]), files=(remote,), headers=self._headers)

    def refusal(self, package: Package, status: int) -> str:
        """Why it gives nothing, and what a person can do about it."""
        page = _source(package).page
        match status:
            case 401 | 403:
                return (
                    f"Civitai gives {package.name} only to people with an account: look at {page}, and set "
                    "CIVITAI_TOKEN to an API key of yours (https://civitai.com/user/account)"
                )
            case 404:
                return f"Civitai has it no more ({page})"
            case _:
                return f"Civitai answered with status {status}; try again later"

    def _ask(self, package: Package, path: str) -> dict[str, Any]:
        try:
            response = httpx2.get(
                f"{self._address}/api/v1/{path}", headers=self._headers, timeout=TIMEOUT, follow_redirects=True
            )
            if response.status_code != 200:
                raise StatusError(response.status_code)
            answer = response.json()
        except httpx2.HTTPError as error:
            raise PullError(f"Civitai can't be asked for {package.name}: {error}") from None
        except ValueError:
            raise PullError(f"Civitai's answer about {package.name} can't be read; try again later") from None
        if not isinstance(answer, dict):
            raise PullError(f"Civitai's answer about {package.name} can't be read; try again later")
        return answer


def _newest(versions: list[dict[str, Any]], package: Package) -> dict[str, Any]:
    """Of those for FLUX.1."""
    fitting = [version for version in versions if str(version.get("baseModel")).startswith(BASE)]
    if not fitting:
        bases = ", ".join(sorted({str(version.get("baseModel")) for version in versions})) or "nothing"
        raise PullError(f"{package.name} is not there for FLUX.1, but for {bases}: {_source(package).page}")
    return max(fitting, key=lambda version: str(version.get("publishedAt") or version.get("createdAt") or ""))


def _weights_of(version: dict[str, Any], package: Package) -> dict[str, Any]:
    """The file of a version that holds its weights: safetensors, with a checksum."""
    files = [file for file in version.get("files") or () if file.get("type") == "Model"]
    fitting = [
        file
        for file in files
        if PurePosixPath(str(file.get("name"))).suffix.lower() in (set(package.file_endings) & ENDINGS)
        and (file.get("metadata") or {}).get("format", "SafeTensor") == "SafeTensor"
        and (file.get("hashes") or {}).get("SHA256")
        and file.get("downloadUrl")
    ]
    if not fitting:
        names = ", ".join(str(file.get("name")) for file in files) or "no files"
        raise PullError(
            f"version {version.get('id')} of {package.name} has {names}: only safetensors with a checksum are pulled, "
            "for pickle can run code when it is read"
        )
    return max(fitting, key=lambda file: bool(file.get("primary")))


def _source(package: Package) -> Civitai:
    if not isinstance(package.source, Civitai):
        raise TypeError(f"{package.name} is not from Civitai")
    return package.source
