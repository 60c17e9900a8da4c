"""The Hugging Face hub: what is in its local cache, and how to get what is not.

Only ``config.json``, the vocabulary and one format of weights are downloaded. A model in the cache
is used without asking the network, so the same name gives the same model until it is pulled again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from circuits.checkpoints import weight_files
from circuits.checkpoints.hugging_face import model_config, read_config
from circuits.checkpoints.layout import CONFIG_FILE
from circuits.checkpoints.vocabulary import TOKENIZER_FILES
from circuits.checkpoints.weight_files import weights_in
from circuits.config import GPT2_SIZES, OPENAI_NAMES
from circuits.errors import CheckpointError

_TEXTS = (CONFIG_FILE, *TOKENIZER_FILES)
_OWNER = "openai-community"  # of the four released sizes on the hub
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class CachedModel:
    """One GPT-2 in the hub's cache: its id there, its commit, its folder and its size."""

    name: str
    revision: str
    folder: Path
    n_bytes: int


def is_hub_name(name: str) -> bool:
    """Whether this may name a model on the hub: a released size, or ``owner/name``.

    >>> is_hub_name("gpt2-xl"), is_hub_name("1558M"), is_hub_name("owner/name"), is_hub_name("gtp2")
    (True, True, True, False)
    """
    return name in (*GPT2_SIZES, *OPENAI_NAMES) or _ID.fullmatch(name) is not None


def cached(name: str, revision: str | None = None) -> Path | None:
    """The folder in which this model is cached; None when it is not, or not completely."""
    # transformers caches "gpt2" under the name it was asked for, with or without the owner.
    for repo in (name, _repo(name)):
        try:
            folder = _snapshot(repo, revision, _TEXTS, local_files_only=True)
        except (OSError, ValueError):
            continue
        if (folder / CONFIG_FILE).is_file() and weights_in(folder):
            return folder
    return None


def pull(name: str, revision: str | None = None) -> Path:
    """Download a model from the hub, or what changed of it; returns its folder.

    `revision` is a branch, a tag or a commit; by default the branch ``main``. huggingface-hub
    shows a progress bar on standard error unless HF_HUB_DISABLE_PROGRESS_BARS is set.

    Raises:
        CheckpointError: when it does not exist, is no GPT-2, has no weights that can be read, or
            the hub cannot be reached.
    """
    if not is_hub_name(name):
        raise CheckpointError(
            f"{name!r} is no model of the hub; name {', '.join(GPT2_SIZES)}, or owner/name"
        )
    _require_revision(revision)
    with _explained(name, revision):
        files = _files(name, revision)
    if CONFIG_FILE not in files:
        raise CheckpointError(
            f"{name}{_at(revision)} on the hub is no model: it has no {CONFIG_FILE}"
        )
    weights = next((name for name in weight_files.FILES if name in files), None)
    if weights is None:
        raise CheckpointError(
            f"{name}{_at(revision)} has neither {weight_files.SAFE} nor {weight_files.PICKLED} on "
            "the hub, and "
            "other formats are not read here; ask its owner for safetensors"
        )
    format_ = weights.removesuffix(".index.json")
    with _explained(name, revision):
        # The configuration first: a model that cannot be loaded should not be downloaded.
        folder = _snapshot(_repo(name), revision, (CONFIG_FILE,))
        model_config(read_config(folder), name, name)
        wanted = (*_TEXTS, weights, *weight_files.SHARDS.get(format_, ()))
        folder = _snapshot(_repo(name), revision, wanted)
    if not weights_in(folder):
        raise CheckpointError(
            f"{name}{_at(revision)} lacks files of its weights; run `{_command(name, revision)}` "
            "again, or ask its "
            "owner"
        )
    return folder


def find(name: str, revision: str | None = None) -> Path:
    """The folder of this model of the hub, which is downloaded if it is not cached.

    Raises:
        CheckpointError: as `pull` does.
    """
    _require_revision(revision)
    return cached(name, revision) or pull(name, revision)


def origin_of(name: str, folder: Path) -> str:
    """The origin of the weights in this folder of the cache: id, commit and the file's SHA-256.

    The cache names a large file by its checksum, so nothing has to be read.
    """
    weights = weights_in(folder)
    blob = weights.resolve().name if weights and weights.suffix != ".json" else ""
    checksum = f" sha256:{blob}" if re.fullmatch(r"[0-9a-f]{64}", blob) else ""
    return f"hub {name}@{folder.name}{checksum}"


def cached_models() -> list[CachedModel]:
    """The GPT-2s in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(_cache_folder()).repos
    except CacheNotFound:
        return []
    models = []
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            folder = Path(revision.snapshot_path)
            if repo.repo_type == "model" and _is_gpt2(folder, repo.repo_id):
                size = int(revision.size_on_disk)
                models.append(CachedModel(repo.repo_id, revision.commit_hash, folder, size))
    return models


def _is_gpt2(folder: Path, name: str) -> bool:
    try:
        model_config(read_config(folder), name, name)
    except CheckpointError:
        return False
    return weights_in(folder) is not None


def _repo(name: str) -> str:
    return name if "/" in name else f"{_OWNER}/{OPENAI_NAMES.get(name, name)}"


def _cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _snapshot(
    repo: str, revision: str | None, files: tuple[str, ...], *, local_files_only: bool = False
) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            repo,
            revision=revision,
            cache_dir=_cache_folder(),
            allow_patterns=list(files),
            local_files_only=local_files_only,
        )
    )


def _files(name: str, revision: str | None) -> set[str]:
    """The names of the model's files on the hub; unlike a download, never those of the cache."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(_repo(name), revision=revision)
    return {file.rfilename for file in info.siblings or []}


def _require_revision(revision: str | None) -> None:
    """Refuse an empty one, which the hub's library takes for none."""
    if revision == "":
        raise CheckpointError(
            "revision='' names none; give a branch, a tag or a commit, or leave it out for main"
        )


def _at(revision: str | None) -> str:
    """The revision that was asked for, for a message."""
    return "" if revision is None else f" at revision {revision!r}"


def _command(name: str, revision: str | None) -> str:
    """What downloads this model, as a command.

    >>> _command("owner/name", "checkpoint-1000")
    'circuits pull owner/name --revision checkpoint-1000'
    """
    words = ["circuits", "pull", name, *([] if revision is None else ["--revision", revision])]
    return shlex.join(words)


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Raise what goes wrong on the way to the hub as errors that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except CheckpointError:
        raise
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{name} on the hub has no revision {revision!r}") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its terms on the hub, then run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"neither this folder nor the hub has a model {name!r}; check the name, or run "
            "`hf auth login` if it is private"
        ) from error
    except Exception as error:  # the HTTP library's own, which changes with huggingface-hub
        reason = type(error.__cause__ or error).__name__
        raise CheckpointError(
            f"{name}{_at(revision)} is no folder here, is not in the hub's cache "
            f"({_cache_folder()}), and "
            f"cannot be downloaded ({reason}): run `{_command(name, revision)}` with a network, or "
            "copy the cache from a machine that has it; the bundled models need neither"
        ) from error
