"""Upload of a finished folder to the Hugging Face hub: ``--push-to-hub``."""

from pathlib import Path

from pause_megatron import log
from pause_megatron.errors import UserError, one_line

_QUOTED = 160
"""Characters of the hub's message in an error."""


def check_upload(repository: str | None, output: Path) -> None:
    """Ask the hub who is logged in, before the work begins; does nothing without a ``repository``.

    Raises :class:`UserError` if the hub cannot be reached or nobody is logged in.
    """
    if repository is None:
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    later = f"or leave the flag out and run `hf upload {repository} {output}` later"
    try:
        HfApi().whoami()
    except LocalTokenNotFoundError as error:
        raise UserError(
            f"--push-to-hub {repository}: not logged in to the hub; run `hf auth login`, set HF_TOKEN, {later}"
        ) from error
    except Exception as error:  # the network and the hub each have their own kinds
        raise UserError(
            f"--push-to-hub {repository}: the hub cannot be reached, or refuses the login"
            f" ({one_line(error)[:_QUOTED]}); check HF_HUB_OFFLINE and HF_TOKEN, {later}"
        ) from error


def upload(folder: Path, repository: str | None) -> None:
    """Upload ``folder`` to ``repository``, a new one as private; does nothing without a ``repository``.

    Raises :class:`UserError` if that fails; the folder stays.
    """
    if repository is None:
        return
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        url = hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload with pause_megatron")
    except Exception as error:  # the network and the hub each have their own kinds
        raise UserError(
            f"--push-to-hub {repository}: the upload failed ({one_line(error)[:_QUOTED]}), but {folder} is complete;"
            f" run `hf upload {repository} {folder}`"
        ) from error
    log.info(f"uploaded {folder} to {url}")
