# Read by go-webui.sh and go-tests.sh, in the project's folder: finds a Python and hands over to
# tools/setup_environment.py, which makes .venv and installs what is missing.

_runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

_find_python() {
    # An existing environment first, so that later starts need no search. A name on PATH may be an old
    # Python, or a version manager's shim that only prints an error: so each one is tried by running it.
    for candidate in .venv/bin/python python3.13 python3.12 python3.11 python3.14 python3 python; do
        if _runs "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

set_up() {
    if ! found_python=$(_find_python); then
        echo "GPT-SoVITS2 needs Python 3.11 or newer, and none was found." >&2
        case "$(uname -s)" in
            Darwin) echo "Install it from python.org, or with Homebrew: brew install python@3.12" >&2 ;;
            *) echo "Debian/Ubuntu: sudo apt install python3 python3-venv    Fedora: sudo dnf install python3" >&2
               echo "Arch: sudo pacman -S python    Where the system's is older than 3.11: python.org or pyenv" >&2 ;;
        esac
        echo "Then start this script again." >&2
        return 1
    fi
    "$found_python" tools/setup_environment.py "$@"
}
