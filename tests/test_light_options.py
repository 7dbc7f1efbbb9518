"""A page shows the options of every step without loading what carries them out."""

import subprocess
import sys

import pytest

from modules.paths import PROJECT_ROOT

OPTIONS = [
    ("modules.corpus.options", "SeparationOptions"),
    ("modules.corpus.options", "DenoiseOptions"),
    ("modules.audio.slicing", "SliceOptions"),
    ("modules.corpus.recognition", "RecognitionOptions"),
    ("modules.data.report", "ReportOptions"),
    ("modules.editing.browsing", "Filters"),
]
HEAVY = "torch demucs noisereduce faster_whisper ctranslate2 av soundfile soxr pyloudnorm scipy transformers".split()
LOOK = """
import importlib, sys
module, name, *heavy = sys.argv[1:]
getattr(importlib.import_module(module), name)()
sys.exit(", ".join(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize(("module", "name"), OPTIONS)
def test_options_are_there_without_heavy_libraries(module: str, name: str) -> None:
    command = [sys.executable, "-c", LOOK, module, name, *HEAVY]
    found = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=120)
    assert found.stderr.strip() == ""  # sys.exit tells there what was loaded


def test_the_options_are_the_ones_that_the_steps_use() -> None:
    from modules.corpus import denoising, options, separation

    assert denoising.DenoiseOptions is options.DenoiseOptions
    assert separation.SeparationOptions is options.SeparationOptions
