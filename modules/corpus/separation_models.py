"""Models that separate a voice from its accompaniment (Demucs), and where they lie on this machine.

A model is one safetensors file: the tensors of its state, and in the metadata `klass` (one of `CLASSES`), `args` and
`kwargs` of its constructor as JSON, which is how the hub publishes them. The older `.th` files are pickles: one is
read only if its name is in the catalogue, its content has the hash that the name promises, and it holds nothing but
tensors, numbers and the classes of a model.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modules.errors import UserError
from modules.hub.reaching import hub_reachable
from modules.hub.snapshots import cached_snapshot, download_snapshot
from modules.hub.source import load_source

CLASSES = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs")


@dataclass(frozen=True)
class Bag:
    """A published model: the files that hear the voice, as `signature: first digits of the sha256 of its .th file`.

    Args:
        repository: on the hub, with `<signature>.safetensors`.
        megabytes: of all its files, about.
        segment_seconds: length of the pieces it was made to work on; 0 keeps that of the file.
    """

    files: Mapping[str, str]
    repository: str
    megabytes: int
    segment_seconds: int = 0


BAGS = {
    "htdemucs": Bag({"955717e8": "8726e21a"}, "adefossez/HTDemucs", 85),
    # A bag of four, of which each gives one stem; the others would be computed for nothing.
    "htdemucs_ft": Bag({"04573f0d": "f3cf25b2"}, "adefossez/HTDemucs-ft", 85),
    "mdx_extra": Bag(
        {"e51eebcc": "c1b80bdd", "a1d90b5c": "ae9d2452", "5d2d6c55": "db83574e", "cfa93e08": "61801ae1"},
        "adefossez/Demucs-mdx_extra",
        670,
        44,
    ),
}
PUBLISHED = {f"{signature}-{digits}.th": digits for bag in BAGS.values() for signature, digits in bag.files.items()} | {
    # The other stems of the bags above, so that a whole folder of them can be read.
    f"{name}.th": name.split("-")[1]
    for name in ("f7e0c4bc-ba3fe64a", "d12395a8-e57c48e6", "92cfc3b6-ef3bcb9c")
}
"""Names of the pickles that may be read, with the first digits of their sha256."""


def load_separators(
    model: str,
    models: Path,
    say: Callable[[str], None] | None = None,
    *,
    cache: Path | None = None,
    reachable: Callable[[], bool] | None = None,
) -> list[nn.Module]:
    """The network or networks of a model, in evaluation mode on the CPU, all with a stem "vocals".

    Args:
        model: a name of `BAGS`, or a `.safetensors` or published `.th` file.
        models: folder that may hold `demucs/<signature>.safetensors` or `demucs/<signature>-<digits>.th`, and
            the setting of where to download from.

    Raises:
        UserError: separation_model_unknown, separation_model_missing, separation_model_refused,
            separation_model_broken, separation_no_vocals, hub_download, hub_setting_broken, hub_endpoint_invalid.
    """
    bag = BAGS.get(model)
    if bag is None:
        path = Path(model)
        if not path.is_file():
            raise UserError(
                "separation_model_unknown",
                "There is no separation model {model}; choose one of {valid}, or give a .safetensors file.",
                model=model,
                valid=", ".join(BAGS),
            )
        return [load_separator(path)]
    networks = [load_separator(path) for path in _bag_files(model, bag, models, say, cache, reachable)]
    if bag.segment_seconds:
        for network in networks:
            network.segment = bag.segment_seconds
    return networks


def load_separator(path: Path, published: Mapping[str, str] = PUBLISHED) -> nn.Module:
    """The network in a file; see `load_separators`."""
    if path.suffix.lower() == ".safetensors":
        network = _load_safetensors(path)
    else:
        network = _load_pickle(path, published)
    if "vocals" not in network.sources:
        raise UserError(
            "separation_no_vocals",
            "{file} separates {stems} but no vocals; choose another model.",
            file=str(path),
            stems=", ".join(map(str, network.sources)),
        )
    return network.eval()


def save_separator(path: Path, network: nn.Module) -> Path:
    """Write a network of Demucs as safetensors with what is needed to make it again."""
    from safetensors.torch import save_file

    args, kwargs = network._init_args_kwargs
    metadata = {
        "klass": f"{type(network).__module__}.{type(network).__qualname__}",
        "args": json.dumps(args, default=_encode_fraction),
        "kwargs": json.dumps(kwargs, default=_encode_fraction),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}, temporary, metadata)
    temporary.replace(path)
    return path


def _bag_files(
    model: str,
    bag: Bag,
    models: Path,
    say: Callable[[str], None] | None,
    cache: Path | None,
    reachable: Callable[[], bool] | None,
) -> list[Path]:
    folder = models / "demucs"
    names = [f"{signature}.safetensors" for signature in bag.files]
    found = [_local_file(folder, signature, digits) for signature, digits in bag.files.items()]
    if all(found):
        return [path for path in found if path]
    snapshot = cached_snapshot(bag.repository, names, cache)
    if snapshot is None or not all((snapshot / name).is_file() for name in names):
        endpoint = load_source(models).snapshots_endpoint
        if not (reachable() if reachable else hub_reachable(endpoint=endpoint)):
            missing = [name for name, path in zip(names, found) if path is None]
            raise UserError(
                "separation_model_missing",
                "The separation model {model} is not on this machine, and the model hub cannot be reached from it. "
                "Connect to the internet and start again to download it, or get {files} of "
                "https://huggingface.co/{repository} (about {megabytes} MB) elsewhere and put them into {folder}; "
                "{pickles} of Demucs will do too.",
                model=model,
                files=", ".join(missing),
                repository=bag.repository,
                megabytes=bag.megabytes,
                folder=str(folder),
                pickles=", ".join(f"{signature}-{digits}.th" for signature, digits in bag.files.items()),
            )
        if say is not None:
            say(f"Downloading {bag.repository}, about {bag.megabytes} MB ...")
        snapshot = download_snapshot(bag.repository, names, folder, cache, endpoint)
    return [path or snapshot / name for path, name in zip(found, names)]


def _local_file(folder: Path, signature: str, digits: str) -> Path | None:
    names = (f"{signature}.safetensors", f"{signature}-{digits}.th")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _load_safetensors(path: Path) -> nn.Module:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as cause:
        raise _broken(path, cause) from cause
    name = metadata.get("klass", "")
    if name not in CLASSES or "structure" in metadata:
        raise _refused(path, f"its class is {name or 'not named'}" if name not in CLASSES else "it is quantised")
    try:
        args, kwargs = (json.loads(metadata.get(key, default)) for key, default in (("args", "[]"), ("kwargs", "{}")))
        return _build(_class(name), _decode_fractions(args), _decode_fractions(kwargs), state)
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, AssertionError) as cause:
        raise _broken(path, cause) from cause


def _load_pickle(path: Path, published: Mapping[str, str]) -> nn.Module:
    """A published `.th` file, by the restricted reader of torch."""
    digits = published.get(path.name)
    if digits is None:
        raise _refused(path, "it is a pickle that is not in the catalogue, and could run any program")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(digits):
        raise _refused(path, f"its sha256 begins with {found[:8]}, not {digits}: it is damaged or not what it says")
    classes = [_class(name) for name in CLASSES]
    try:
        with torch.serialization.safe_globals([*classes, Fraction]):
            package = torch.load(path, map_location="cpu", weights_only=True)
        if package["klass"] not in classes:
            raise _refused(path, f"its class is {package['klass']}")
        return _build(package["klass"], package["args"], package["kwargs"], package["state"])
    except UserError:
        raise
    except Exception as cause:  # torch raises its own UnpicklingError, and any other kind for a damaged archive
        raise _broken(path, cause) from cause


def _build(cls: type, args: Any, kwargs: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """The network; arguments that its class no longer has are dropped, as Demucs itself does with its old files."""
    known = inspect.signature(cls.__init__).parameters
    network = cls(*args, **{name: value for name, value in kwargs.items() if name in known})
    network.load_state_dict(state)
    return network.float()


def _class(name: str) -> type:
    """A class of `CLASSES`; spelled out, so that no file decides what is imported."""
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    return {"demucs.htdemucs.HTDemucs": HTDemucs, "demucs.hdemucs.HDemucs": HDemucs}[name]


def _encode_fraction(value: Any) -> dict[str, Any]:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    raise TypeError(f"{value!r} is no JSON value")


def _decode_fractions(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode_fractions(item) for item in value]
    if isinstance(value, dict):
        if value.get("_type") == "fraction":
            return Fraction(int(value["numerator"]), int(value["denominator"]))
        return {key: _decode_fractions(item) for key, item in value.items()}
    return value


def _refused(path: Path, reason: str) -> UserError:
    return UserError(
        "separation_model_refused",
        "{file} is not read: {reason}. Use a .safetensors file, or a published .th file under its own name.",
        file=str(path),
        reason=reason,
    )


def _broken(path: Path, cause: Exception) -> UserError:
    return UserError(
        "separation_model_broken",
        "{file} is not a whole separation model ({cause}); get it again.",
        file=str(path),
        cause=" ".join(str(cause).split())[:200] or type(cause).__name__,
    )
