"""Start the page: flags -> services -> tabs -> launch.

python webui.py                                  http://127.0.0.1:9874, opened in the browser
python webui.py --listen 0.0.0.0 --password ...  reachable from other machines, with a login
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from modules import paths
from modules.doctor.system import port_is_free

if TYPE_CHECKING:
    import gradio

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags, checked against each other."""
    parser = argparse.ArgumentParser(description="GPT-SoVITS2: clone a voice and speak any language with it.")
    parser.add_argument("--port", type=int, default=9874, help="port of the page (default 9874)")
    parser.add_argument("--listen", default="127.0.0.1", metavar="HOST", help="address to listen on; default 127.0.0.1")
    parser.add_argument("--user", default="user", help="name for the login (default user)")
    parser.add_argument("--password", help="switch a login on; required when others can reach the page")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in the browser")
    parser.add_argument("--models", type=Path, default=paths.PRETRAINED_MODELS, help="folder of the presets' weights")
    parser.add_argument("--output", type=Path, default=paths.OUTPUT, help="folder for audio and its settings")
    parser.add_argument("--logs", type=Path, default=paths.LOGS, help="folder for datasets, edits and jobs")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute")
    languages = sorted(path.stem for path in paths.LOCALES.glob("*.json"))
    parser.add_argument("--language", choices=languages, help="language of the page (default: that of each browser)")
    options = parser.parse_args(arguments)
    if options.listen not in LOOPBACK and not options.password:
        parser.error("--listen opens the page to other machines: give a --password as well")
    if not 0 < options.port < 65536:
        parser.error("--port must lie between 1 and 65535")
    return options


def write_log(path: Path) -> None:
    """Send warnings and failures to a file, so that the page can name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)


def _serve(options: argparse.Namespace, log_file: Path) -> "gradio.Blocks":
    """Build the page and let it answer."""
    from tools.webui.app import build_app, launch
    from tools.webui.dataset_tab import build_dataset_tab
    from tools.webui.models_tab import build_models_tab
    from tools.webui.services import make_services
    from tools.webui.training_tab import build_training_tab

    services = make_services(
        models=options.models,
        output=options.output,
        logs=options.logs,
        device=options.device,
        language=options.language,
        log_file=log_file,
    )
    app = build_app(
        services,
        [("tab.dataset", build_dataset_tab), ("tab.training", build_training_tab)],
        [("tab.models", build_models_tab)],
    )
    if options.listen not in LOOPBACK:
        print(
            f"Warning: everyone who can reach {options.listen}:{options.port} and knows the password can use the page. "
            "The connection is not encrypted, and browsers allow the microphone only over https or on this machine: "
            "put a proxy with TLS in front of it on networks you do not trust."
        )
    print(f"GPT-SoVITS2 on http://{options.listen}:{options.port} (stop with Ctrl+C)", flush=True)
    launch(
        app,
        services,
        host=options.listen,
        port=options.port,
        auth=(options.user, options.password) if options.password else None,
        open_browser=not options.no_browser,
    )
    return app


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until it is interrupted; returns the exit status."""
    options = parse_arguments(arguments)
    if not port_is_free(options.listen, options.port):
        print(
            f"Port {options.port} of {options.listen} is in use or not allowed. Perhaps the page runs already; "
            f"otherwise choose another port with --port.",
            file=sys.stderr,
        )
        return 1
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    log_file = options.logs / "webui.log"
    write_log(log_file)

    from tools.webui.quick_start import quick_start

    with quick_start():
        app = _serve(options, log_file)
    app.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
