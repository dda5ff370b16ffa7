#!/bin/sh
# No kernel of the backend spills registers.
# usage: report.sh SOURCE BUILD
set -eu
ls "$2"/src/kernels/cuda/*.o.log >/dev/null 2>&1 || { echo "report: nothing has been compiled"; exit 77; }
exec "$1/scripts/cuda-report" "$2"
