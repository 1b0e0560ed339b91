"""Models on the Hugging Face Hub, or in a folder with the same layout; needs the extra `hub`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from metabox.checks import checked
from metabox.files import write_text
from metabox.model import Model

FILE, CARD = "model.metabox", "README.md"


@checked
def from_pretrained(
    name: str | Path, *, revision: str | None = None, token: str | None = None, device: str = "cpu"
) -> Model:
    """The model of a repository on the hub, or in a folder. It may be untrusted: nothing in it can run code.

    Args:
        name: `owner/name` on the hub, or a folder, which is looked for first and needs no network.
        revision: branch, tag or commit on the hub.
        token: of a private repository; by default the one that you are logged in with.
        device: where the weights go.

    Raises:
        ValueError: if there is no such repository or folder, or no model in it.
        ImportError: if huggingface_hub is missing and the name is no folder.
    """
    folder = Path(name)
    if folder.is_dir():
        return Model.load(folder / FILE, device)
    hub = _hub()
    try:
        path = hub.hf_hub_download(str(name), FILE, revision=revision, token=token, library_name="metabox")
    except (OSError, ValueError) as error:  # errors of the network and of names are of these
        raise ValueError(
            f"expected a folder or a repository on the hub with a {FILE}, got {str(name)!r}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    return Model.load(path, device)


@checked
def save_pretrained(model: Model, folder: str | Path) -> Path:
    """Write the model and its card into a folder, in the layout of a repository on the hub.

    Raises:
        OSError: if it cannot be written.
    """
    folder = Path(folder)
    model.save(folder / FILE)
    write_text(folder / CARD, card(model))
    return folder


@checked
def push_to_hub(
    model: Model, name: str, *, private: bool = False, token: str | None = None, message: str = "Add the model"
) -> str:
    """Upload the model and its card; the repository is made if there is none.

    Args:
        model: with name, licence and card set, for others to read.
        name: `owner/name`.
        private: whether a new repository is private.
        token: by default the one that you are logged in with.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: if the model has no licence, or the hub refuses.
        ImportError: if huggingface_hub is missing.
    """
    if not model.licence:
        raise ValueError(
            "expected a model with a licence to publish, got none; use dataclasses.replace(model, licence=...)"
        )
    api = _hub().HfApi(token=token, library_name="metabox")
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            made = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
        except (OSError, ValueError) as error:
            raise ValueError(f"could not publish {name!r}: {' '.join(str(error).split())[:300]}") from error
    return str(getattr(made, "commit_url", made))


def card(model: Model) -> str:
    """The model card in Markdown, with the header that the hub reads."""
    head = {"library_name": "metabox", "license": model.licence or "unknown", "tags": ["few-shot", "meta-learning"]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]
    title = model.name or type(model.learner).__name__
    target = model.spec.target
    use = "FewShotClassifier" if target.n_classes is not None else "FewShotRegressor"
    licence = model.licence or "none given"
    return f"""---
{chr(10).join(lines)}
---

# {title}

{model.card or "No card was written."}

`{type(model.learner).__name__}` for inputs {list(model.spec.x_shape)} and {target!r}. Licence: {licence}.

```python
from metabox import {use}
from metabox.hub import from_pretrained

estimator = {use}(from_pretrained("OWNER/NAME")).fit(examples, labels)
estimator.predict(others)
```
"""


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f'expected the extra hub, got {error}; pip install ".[hub]" from a checkout') from error
    return huggingface_hub
