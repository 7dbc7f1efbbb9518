#!/usr/bin/env bash
# Linux and macOS: the first run sets everything up in .venv, every run opens the page.
# All flags go to the page, for example: ./go-webui.sh --no-browser --port 9874
cd "$(dirname "$0")" || exit 1
. tools/set_up.sh
set_up || exit
exec .venv/bin/python webui.py "$@"
