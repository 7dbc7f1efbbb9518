"""Where models are downloaded from: the hub itself, a mirror, or any address that answers like the hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from modules.errors import UserError
from modules.hub.catalogue import Entry
from modules.hub.space import make_folder, telling_disk
from modules.progress import write_json

SETTING_NAME = "hub.json"
MIRRORS = {
    "huggingface.co": "https://huggingface.co",
    "hf-mirror.com": "https://hf-mirror.com",
    "modelscope.cn": "https://modelscope.cn",
}
"""Known places by name."""


@dataclass(frozen=True)
class HubSource:
    """An address to download from, like `https://huggingface.co`; no slash at its end."""

    endpoint: str = MIRRORS["huggingface.co"]

    @property
    def is_modelscope(self) -> bool:
        """Whether it is ModelScope, which has paths and revisions of its own."""
        host = urlsplit(self.endpoint).hostname or ""
        return host == "modelscope.cn" or host.endswith(".modelscope.cn")

    @property
    def name(self) -> str:
        """For people: the name of a known mirror, else the address."""
        return next((name for name, endpoint in MIRRORS.items() if endpoint == self.endpoint), self.endpoint)

    @property
    def snapshots_endpoint(self) -> str | None:
        """For the hub's own library, which fetches whole repositories; None where the address does not serve it."""
        return None if self.is_modelscope else self.endpoint

    def revision(self, entry: Entry) -> str:
        """Of an entry there. ModelScope numbers its revisions differently, so its newest one is taken; hashes of the
        catalogue decide all the same."""
        return "master" if self.is_modelscope else entry.revision

    def url(self, entry: Entry, file: str) -> str:
        """Where one file of an entry is."""
        repository, path = entry.repository, ""
        if self.is_modelscope:
            repository, path = entry.modelscope or entry.repository, "/models"
        return f"{self.endpoint}{path}/{repository}/resolve/{self.revision(entry)}/{quote(file)}"


def source_from(text: str) -> HubSource:
    """The source that a person names: a known mirror, or a web address. Raises UserError: hub_endpoint_invalid."""
    text = text.strip().rstrip("/")
    endpoint = MIRRORS.get(text.lower(), text)
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        valid = valid and (parts.port is None or parts.port > 0) and not any(c.isspace() for c in endpoint)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(
            "hub_endpoint_invalid",
            "{endpoint} is no address to download from; give one of {known}, or a web address like "
            "https://example.org without a ? or # in it.",
            endpoint=text or '""',
            known=", ".join(MIRRORS),
        )
    return HubSource(endpoint)


def load_source(models: Path) -> HubSource:
    """The source that is set for a folder of models; without a setting, that of the hub's own library.

    Raises:
        UserError: hub_setting_broken, hub_endpoint_invalid.
    """
    path = Path(models) / SETTING_NAME
    try:
        endpoint = json.loads(path.read_text(encoding="utf-8"))["endpoint"]
        if not isinstance(endpoint, str):
            raise TypeError(f"endpoint is {endpoint!r}")
    except FileNotFoundError:
        from huggingface_hub import constants  # follows HF_ENDPOINT

        return source_from(constants.ENDPOINT)
    except (OSError, ValueError, TypeError, KeyError) as cause:
        raise UserError(
            "hub_setting_broken",
            "{file} cannot be read ({cause}); choose the source of downloads anew, or delete the file.",
            file=str(path),
            cause=cause,
        ) from cause
    return source_from(endpoint)


def save_source(models: Path, source: HubSource) -> Path:
    """Keep the source for a folder of models; returns the file.

    Raises:
        UserError: hub_endpoint_invalid, hub_disk_full, hub_folder_unwritable.
    """
    path, endpoint = Path(models) / SETTING_NAME, source_from(source.endpoint).endpoint
    make_folder(path.parent)
    with telling_disk(path.parent):
        write_json(path, {"endpoint": endpoint})
    return path
