#!/bin/sh
# Runs a test with the kernels of one CPU level; exit code 77 (skipped) where the build or the machine lacks it.
# usage: at_level.sh SQF LEVEL COMMAND...
set -eu
sqf=$1
SQF_CPU=$2
export SQF_CPU
shift 2
status=0
"$sqf" version >/dev/null 2>&1 || status=$?
[ "$status" -ne 1 ] || { echo "CPU level $SQF_CPU is not here: skipped"; exit 77; }
[ "$status" -eq 0 ] || { echo "FAILED: sqf version at CPU level $SQF_CPU: exit code $status"; exit 1; }
exec "$@"
