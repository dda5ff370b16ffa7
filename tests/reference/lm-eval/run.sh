#!/bin/sh
# Compares `sqf eval --tasks` with lm-eval on transformers, item by item: the long tier of the tests, run by hand.
#
#     tests/reference/lm-eval/run.sh SQF VENV MODEL LIMIT FILES...
#
# VENV is made with Python's packages of the versions below if it is not there (1.5 GB, from the package index).
# LIMIT: items of each file, 0 = all. Files of the built-in tasks, e.g. ../shared/data/tasks/*.jsonl.
set -eu
[ $# -ge 5 ] || {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
here=$(cd "$(dirname "$0")" && pwd)
sqf=$1 venv=$2 model=$3 limit=$4
shift 4
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -r "$here/requirements.txt"
fi
exec "$venv/bin/python" "$here/compare.py" "$sqf" "$model" "$@" --limit "$limit"
