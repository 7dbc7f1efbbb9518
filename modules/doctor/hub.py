"""Check of the place that models are downloaded from."""

from collections.abc import Callable
from pathlib import Path

from modules.doctor.findings import Finding, cause_of
from modules.errors import UserError
from modules.hub.reaching import hub_reachable, kept_offline
from modules.hub.source import load_source


def check_hub(models: Path, reachable: Callable[..., bool] = hub_reachable) -> Finding:
    """Whether models could be downloaded; answers within three seconds."""
    try:
        source = load_source(models)
    except UserError as cause:
        return Finding("Downloads", "warning", cause_of(cause), "Choose the source in the tab Models.")
    if reachable(endpoint=source.endpoint):
        return Finding("Downloads", "ok", f"{source.endpoint} can be reached")
    if kept_offline(source.endpoint):
        return Finding("Downloads", "warning", "HF_HUB_OFFLINE is set, so nothing is downloaded.",
                       "Remove that variable to download models.")  # fmt: skip
    return Finding(
        "Downloads", "warning", f"{source.endpoint} cannot be reached; what is installed works without it.",
        "To download models, check the connection or choose a mirror in the tab Models, or place the files by hand.",
    )  # fmt: skip
