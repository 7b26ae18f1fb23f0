"""Models by their folder or by their name on the Hugging Face hub, such as ``HuggingFaceTB/SmolLM2-135M``."""

from functools import cache
from pathlib import Path

from pause_megatron import log
from pause_megatron.config.checks import HUB_NAME
from pause_megatron.errors import UserError, one_line, system_error

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_OTHER_COPIES = tuple(f"*/{pattern}" for pattern in _FILES[:-1])
"""Files in subfolders are the model in other formats; only chat templates are there."""


def is_hub_name(model: Path) -> bool:
    """Whether ``model`` is not here, but can be the name of a model on the hub: ``NAME`` or ``OWNER/NAME``."""
    return not model.exists() and HUB_NAME.fullmatch(str(model)) is not None


def find_model(model: Path) -> Path:
    """Return the folder with the files of ``model``: itself, or its copy in the cache of the hub's library.

    A folder takes precedence over a model of the same name on the hub. Files that are not in the cache are downloaded.

    Raises :class:`UserError` if there is neither.
    """
    if model.is_dir():
        return model
    if not is_hub_name(model):
        raise UserError(f"{model}: no such folder; give a folder with a Hugging Face model, or its name on the hub")
    return _snapshot(str(model))


@cache
def _snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES), ignore_patterns=list(_OTHER_COPIES)))
    except GatedRepoError as error:
        raise UserError(
            f"{name}: the hub gives this model only to those who accept its terms; accept them on its page, and run"
            " `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{name}: neither a folder nor a model on the hub; correct the name, or run `hf auth login` if the model"
            " is private"
        ) from error
    except Exception as error:  # the network, the hub and the cache each have their own kinds
        if refused := system_error(error):
            raise refused from error
        raise UserError(
            f"{name}: no such folder, and no model of this name in the cache of the hub, which cannot be reached"
            f" ({one_line(error)[:120]}); give a folder, or run `hf download {name}` on a machine with internet and set"
            " HF_HOME to its cache here, with HF_HUB_OFFLINE=1"
        ) from error
    log.info(f"{name}: from the hub, commit {folder.name}")
    return folder
