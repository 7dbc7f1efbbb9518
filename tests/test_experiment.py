"""Names of experiments are safe as folder names, and files are where people know them."""

from pathlib import Path

import pytest

from modules.errors import UserError
from modules.experiment import Experiment, experiment_name


@pytest.mark.parametrize("name", ["me", " my voice 2 ", "声_1", "a.b", "é-é"])
def test_good_names_stay(name: str, tmp_path: Path) -> None:
    experiment = Experiment(experiment_name(name), tmp_path, tmp_path / "g", tmp_path / "s")
    assert experiment.folder == tmp_path / name.strip() and experiment.features.parent == experiment.folder
    assert experiment.gpt_file(40, 3).name == f"{name.strip()}-e3.safetensors"
    assert experiment.vits2_file(40, 3).name == f"{name.strip()}_e3_s40.safetensors"


@pytest.mark.parametrize(
    "name", ["", "  ", "../x", "a/b", "a\\b", ".hidden", "x.", "con", "NUL.txt", "com1", "a\nb", "a:b", "a|b", "x" * 61]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        experiment_name(name)
    assert caught.value.code == "experiment_name"
