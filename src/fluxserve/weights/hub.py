"""What the Hugging Face hub has of a package, and what its refusals mean.

The library asks the hub; the bytes are brought by `download`: the library's own download begins a file anew when it was
cut off, and over plain HTTP compares no checksum.
"""

from pathlib import PurePosixPath

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from fluxserve.domain.weights import ENDINGS, Hub, Package
from fluxserve.weights.download import Remote, StatusError
from fluxserve.weights.errors import PullError
from fluxserve.weights.listing import Listing
from fluxserve.weights.places import is_wanted


class HubStore:
    """`endpoint` None is the one that HF_ENDPOINT names, or the hub itself; the token is HF_TOKEN's. The library reads
    both."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def listing(self, package: Package) -> Listing:
        """Its files there now. Raises `StatusError` or `PullError`."""
        source = _source(package)
        try:
            told = HfApi(endpoint=self._endpoint).model_info(source.repository, files_metadata=True)
        except HfHubHTTPError as error:
            raise StatusError(error.response.status_code) from None
        except (httpx2.HTTPError, OSError) as error:
            raise PullError(f"the hub can't be asked for {source.repository}: {error}") from None
        files = tuple(
            Remote(
                name=file.rfilename,
                url=hf_hub_url(source.repository, file.rfilename, revision=told.sha, endpoint=self._endpoint),
                size=file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
            )
            for file in told.siblings or ()
            if is_wanted(package, file.rfilename) and _is_safe(file.rfilename)
        )
        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return Listing(revision=told.sha or "", files=files, headers=headers)

    def refusal(self, package: Package, status: int) -> str:
        """Why it gives nothing, and what a person can do about it."""
        source = _source(package)
        match status:
            case 401 | 403:
                return (
                    f"{source.repository} is given only to who has accepted its licence: accept it at {source.page}, "
                    f"and set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)"
                )
            case 404:
                return f"{source.repository} is not on the hub, or no longer with these files ({source.page})"
            case _:
                return f"the hub answered with status {status}; try again later"


def _source(package: Package) -> Hub:
    if not isinstance(package.source, Hub):
        raise TypeError(f"{package.name} is not from the hub")
    return package.source


def _is_safe(name: str) -> bool:
    """Data alone, and nothing that lies outside its folder."""
    path = PurePosixPath(name)
    return path.suffix in ENDINGS and not path.is_absolute() and ".." not in path.parts
