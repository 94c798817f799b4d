"""A folder goes to a repository on the Hub, or a sentence says why not and what to do.

Through huggingface_hub alone: its endpoint (HF_ENDPOINT), its token (HF_TOKEN or `hf auth login`),
its uploads. Files that are there already are not sent again, so a second call goes on where the
first one broke off. Knows nothing of what is in the folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from env_server.contract import RoundsError

_REPO = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?")
LONGEST_NAME = 96


class BadRepo(RoundsError, ValueError):
    """What was given as --to is no name of a repository."""


class NotUploaded(RoundsError, RuntimeError):
    """The Hub did not take the folder; the folder itself is untouched."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a folder goes. branch: None is the main one; another one is made where it is missing."""

    repo: str
    private: bool | None = None
    branch: str | None = None


def check_repo(name: str) -> str:
    """The name, where it is `user/name` as the Hub allows it. Raises BadRepo."""
    part = name.rsplit("/", maxsplit=1)[-1]
    if (
        not _REPO.fullmatch(name)
        or "--" in name
        or ".." in name
        or part.endswith(".git")
        or len(part) > LONGEST_NAME
    ):
        raise BadRepo(
            f"--to {name!r}: give user/name, like ada/rounds-review-easy; letters, digits, '-', '_' and '.',"
            f" at most {LONGEST_NAME} characters, no '--', no '..', no .git at the end"
        )
    return name


def upload(folder: Path, target: Target, message: str) -> str:
    """Send the folder in one go; returns the address of the commit. Raises NotUploaded."""
    import httpx2
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    token = get_token()
    if token is None:
        raise NotUploaded(
            "no token: set HF_TOKEN, or log in once with: hf auth login. It needs write access"
            " (https://huggingface.co/settings/tokens). --dry-run needs none"
        )
    api = HfApi(token=token, library_name="rounds")
    try:
        api.create_repo(target.repo, private=target.private, exist_ok=True)
        if target.branch is not None:
            api.create_branch(target.repo, branch=target.branch, exist_ok=True)
        done = api.upload_folder(
            repo_id=target.repo,
            folder_path=folder,
            revision=target.branch,
            commit_message=message,
        )
    except OfflineModeIsEnabled as error:
        raise NotUploaded(
            "huggingface_hub is told to stay offline; unset HF_HUB_OFFLINE and try again"
        ) from error
    except HfHubHTTPError as error:
        raise NotUploaded(_explained(error.response.status_code, target, _said(error))) from error
    except httpx2.TransportError as error:
        raise NotUploaded(_unreachable(api.endpoint, error)) from error
    except RuntimeError as error:  # a file broke off; huggingface_hub names it, its cause says why
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            told = _explained(cause.response.status_code, target, f"{error} {_said(cause)}")
            raise NotUploaded(told) from error
        if isinstance(cause, httpx2.TransportError):
            raise NotUploaded(_unreachable(api.endpoint, cause)) from error
        raise
    except ValueError as error:  # metadata that the Hub does not accept, or a malformed answer
        raise NotUploaded(f"the Hub did not accept the folder: {error}") from error
    return str(done.commit_url)


_REMEDIES = {
    400: "the Hub calls the request malformed; look at the metadata in README.md",
    401: "the token is not valid: make a new one with write access, or log in again with: hf auth login",
    402: "the account's storage or plan does not allow it",
    403: "the token may not write there: it needs write access, and {owner} must be you or an organisation of yours",
    404: "there is no such repository or branch, or the token may not see it",
    409: "somebody else changed the repository meanwhile, or the name is taken by another kind of repository;"
    " try again, or choose another name",
    413: "a file is larger than the Hub takes",
    429: "too many requests; wait some minutes, then repeat the command",
}


def _explained(status: int, target: Target, said: str) -> str:
    owner = target.repo.split("/")[0]
    remedy = _REMEDIES.get(status, "").format(owner=owner)
    if status >= 500:
        remedy = "the Hub is in trouble, not you; repeat the command later: what has arrived is not sent again"
    where = target.repo + (f" (branch {target.branch})" if target.branch else "")
    return (
        f"{where} was not published: HTTP {status}: {remedy or 'unexpected'}. The Hub said: {said}"
    )


def _said(error: Exception) -> str:
    """What the server said, in one line, without the address that may hold a signature."""
    told = getattr(error, "server_message", None) or str(error).strip().splitlines()[0]
    return re.sub(r"https?://\S+", "", " ".join(str(told).split()))[:300] or "nothing"


def _unreachable(endpoint: str, error: Exception) -> str:
    return (
        f"cannot reach {endpoint} ({error}); check the network, HF_ENDPOINT and proxies, then repeat the"
        " command: what has arrived is not sent again"
    )
