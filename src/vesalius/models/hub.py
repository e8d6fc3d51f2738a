"""Models on the Hugging Face hub: the layout, the names and the login are the hub's own.

Needs ``pip install vesalius[hub]``. ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` mean what they
mean everywhere.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import ModuleType

from vesalius.core.errors import ModelError, WriteError
from vesalius.models.base import SegmentationModel
from vesalius.models.card import CARD, model_card
from vesalius.models.checkpoint import CONFIG, WEIGHTS, read_checkpoint, save_checkpoint
from vesalius.models.convert import load_network
from vesalius.models.text import TOKENIZER_NAMES, tokenizer_files


def push(
    source: SegmentationModel | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload model",
    licence: str | None = None,
) -> str:
    """Uploads a model as one commit: ``model.safetensors``, ``config.json``, the card ``README.md``, a tokenizer.

    Args:
        source: A network, or a checkpoint folder; the folder's own card goes along if it has one.
        repo_id: Where on the hub, ``user/name``; made if it does not exist.
        private: Whether a new repository is private.
        revision: The branch; by default the main one.
        message: Of the commit.
        licence: SPDX identifier for a new card.

    Returns:
        The commit's address.

    Raises:
        ModelError: The folder is not a checkpoint, or huggingface_hub is not installed.
        WriteError: The hub refuses, or cannot be reached.
    """
    hub = _hub()
    if isinstance(source, SegmentationModel):
        with tempfile.TemporaryDirectory() as temporary:
            save_checkpoint(source, temporary)
            return push(temporary, repo_id, private=private, revision=revision, message=message, licence=licence)
    folder = Path(source)
    content, _ = read_checkpoint(folder)
    card = folder / CARD
    text = card.read_bytes() if card.is_file() else model_card(repo_id, content, {}, licence).encode()
    files = {WEIGHTS: folder / WEIGHTS, CONFIG: folder / CONFIG, CARD: text}
    files |= {file.name: file for file in tokenizer_files(folder)}
    try:
        api = hub.HfApi(library_name="vesalius")
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [hub.CommitOperationAdd(name, file) for name, file in files.items()]
        done = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise WriteError(f"cannot be uploaded to {repo_id} ({_first_line(error)})", path=folder) from error
    return str(done.commit_url)


def from_pretrained(
    repo_id_or_folder: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    preset: str | None = None,
) -> SegmentationModel:
    """Loads a model from the hub or a folder: a checkpoint of ours, or transformers' SAM.

    Args:
        repo_id_or_folder: ``user/name``, or a folder.
        revision: Branch, tag or commit.
        cache_dir: Where downloads are kept; by default the hub's own cache.
        local_files_only: Take what is in the cache, without the network.
        preset: Key of ``PRESETS``, where the weights do not tell (transformers' SAM and MedSAM).

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        ModelError: There is no such model, it cannot be reached, or it has another layout.
    """
    if Path(repo_id_or_folder).is_dir():
        return load_network(repo_id_or_folder, preset)
    hub = _hub()
    try:
        folder = hub.snapshot_download(
            str(repo_id_or_folder),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=[WEIGHTS, CONFIG, CARD, *TOKENIZER_NAMES],
            library_name="vesalius",
        )
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise ModelError(
            f"{str(repo_id_or_folder)!r} is no folder, and cannot be had from the hub ({_first_line(error)})",
            remedy="check the name, the revision, your login and the network",
        ) from error
    return load_network(folder, preset)


def _hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ModelError("the hub needs the package huggingface_hub", remedy="pip install vesalius[hub]") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
