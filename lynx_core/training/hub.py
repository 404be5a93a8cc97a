"""The Hugging Face Hub as the place that a finished adapter goes to."""

from __future__ import annotations

from pathlib import Path


def push_adapter(path: Path, repository: str) -> str:
    """Upload an adapter to the Hugging Face Hub, into a new private repository where there is none.

    Returns:
        A sentence for the user: where it is, or why it is not and how to upload it.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id=repository)
    except Exception as error:  # of the HTTP client, which is another one in each version of the package
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"the adapter could not be uploaded to {repository}: {reason}; upload it by: hf upload {repository} {path}"
    return f"the adapter is in {hub.endpoint}/{repository}"
