#!/bin/sh
# Builds libsqf_cuda; skipped where nvcc is not.
# usage: builds.sh CMAKE BUILD 0|1
set -eu
if [ "$3" != 1 ]; then
    echo "builds: nvcc was not found when this was configured"
    exit 77
fi
exec "$1" --build "$2" --target sqf_cuda --parallel 2
