"""Files that the page hands to the browser, wherever they lie."""

from pathlib import Path

from gradio import processing_utils, utils

LARGEST_BYTES = 512 << 20


def served(path: str | Path) -> str | None:
    """A copy of a file among the page's temporary ones, which alone the browser may read; None where it is no file.

    Copies go away by age. Nothing else of the file's folder becomes readable.
    """
    path = Path(path)
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
            return None
        return processing_utils.save_file_to_cache(path, cache_dir=utils.get_upload_folder())
    except (OSError, ValueError):
        return None
