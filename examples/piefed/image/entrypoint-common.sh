# What PieFed's processes have in common. Sourced by the other entrypoints. It doesn't migrate: that is
# the affair of the Job alone.
set -eu

export FLASK_APP=pyfedi.py
here=$(cd "$(dirname "$0")" && pwd)
cd "${PIEFED_HOME:-/app}"

# Becomes a program of PieFed's environment. Upstream's image keeps it in uv's and starts as root, to be
# left by gosu; dockur's has it on the PATH and runs as `python` already.
become() {
    if [ -e uv.lock ] && command -v uv >/dev/null; then
        # The environment is root's, and whole as it was built.
        set -- uv run --no-sync "$@"
    fi
    if [ "$(id -u)" = 0 ] && command -v gosu >/dev/null; then
        mkdir -p /dev/shm/pyfedi logs app/static/media app/static/tmp
        chown python:python /dev/shm/pyfedi logs app/static/media app/static/tmp
        set -- gosu python "$@"
    fi
    exec "$@"
}
