"""Runs a tool as `python -m TOOL ...` does, with the catalogue of models of a test.

    python -m tests.webui.download_tool GATE CATALOGUE.json tools.download NAME ...

While the file GATE exists, the tool waits after the first piece of work that it tells of.
"""

import runpy
import sys
from pathlib import Path

from modules.hub.catalogue import load_catalogue
from tests.webui.held_tool import hold

if __name__ == "__main__":
    gate, catalogue, module, *arguments = sys.argv[1:]
    load_catalogue.__wrapped__.__defaults__ = (Path(catalogue),)
    hold(Path(gate))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
