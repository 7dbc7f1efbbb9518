"""Files that the page hands to the browser, wherever they lie.

A list may name any file of the machine, and lists come from anywhere: what is named there is handed out only if it is
sound.
"""

from pathlib import Path

from gradio import processing_utils, utils

from modules.data.sources import AUDIO_SUFFIXES
from modules.errors import UserError

LARGEST_BYTES = 512 << 20


def served(path: str | Path) -> str | None:
    """A copy of a sound file among the page's temporary files, which alone the browser may read.

    None where it is no file, is not called like sound, or does not begin like sound. Copies go away by age. Nothing
    else of the file's folder becomes readable.
    """
    return _copy(Path(path)) if _is_sound(Path(path)) else None


def served_result(path: str | Path) -> str | None:
    """Like `served`, of a list or report; only for files that the result of a job names, never for those of a list."""
    return _copy(Path(path))


def _is_sound(path: Path) -> bool:
    from modules.audio.io import probe

    try:
        if path.suffix.lower() not in AUDIO_SUFFIXES or not path.is_file():
            return False
        probe(path)
    except (OSError, ValueError, UserError):
        return False
    return True


def _copy(path: Path) -> str | None:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
            return None
        return processing_utils.save_file_to_cache(path, cache_dir=utils.get_upload_folder())
    except (OSError, ValueError):
        return None
