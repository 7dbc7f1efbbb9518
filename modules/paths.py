"""Where things lie, relative to the project's root. Nothing is created on import."""

from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent
PRESETS = PROJECT_ROOT / "modules" / "presets"
PRETRAINED_MODELS = PROJECT_ROOT / "pretrained_models"
OUTPUT = PROJECT_ROOT / "output"
LOGS = PROJECT_ROOT / "logs"
GPT_WEIGHTS = PROJECT_ROOT / "GPT_weights"
SOVITS_WEIGHTS = PROJECT_ROOT / "SoVITS_weights"
LOCALES = PROJECT_ROOT / "i18n"
EXAMPLES = PROJECT_ROOT / "examples"
