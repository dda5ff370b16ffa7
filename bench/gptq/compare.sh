#!/bin/sh
# GPTQ of one layer: bench_gptq against reference.py in turns, A B A B, best and median of each.
#
#   bench/gptq/compare.sh BENCH_GPTQ PYTHON [DIRECTORY]
#
# BENCH_GPTQ is the built program, PYTHON an interpreter that has torch. DIRECTORY (default: a fresh one in /tmp) takes up
# to 400 MB and is emptied of them afterwards. THREADS (default: all processors) sets the threads of both. On a machine that
# others load, THREADS=1 and the processor seconds ("cpu") are the fair comparison: barriers between PyTorch's threads make
# it wait for processors that are busy with something else.
set -eu
bench=$1 python=$2
here=$(dirname "$0")
directory=${3:-$(mktemp -d)}
threads=${THREADS:-$(nproc)}
lines=$directory/lines.txt
: > "$lines"
trap 'rm -f "$directory"/*.f32 "$lines"' EXIT

load() {
    cut -d' ' -f1-3 /proc/loadavg
}

# compare ROWS COLUMNS REPETITIONS
compare() {
    "$bench" make "$1" "$2" "$directory"
    for repetition in $(seq "$3"); do
        "$bench" run "$1" "$2" "$directory" "$threads" | tee -a "$lines"
        last=$([ "$repetition" = "$3" ] && echo 1 || true)
        COMPARE=$last "$python" "$here/reference.py" "$1" "$2" "$directory" "$threads" | tee -a "$lines"
        echo "load $(load)"
    done
}

echo "date     $(date -u +%Y-%m-%d)"
echo "cpu      $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) processors"
echo "torch    $("$python" -c 'import torch; print(torch.__version__)')"
echo "command  THREADS=$threads bench/gptq/compare.sh BENCH_GPTQ PYTHON"
echo "load     $(load) before"
compare 2048 2048 "${REPETITIONS_SMALL:-5}"
compare 2048 8192 "${REPETITIONS_LARGE:-3}"
"$python" - "$lines" <<'EOF'
import statistics
import sys

seconds = {}
for line in open(sys.argv[1]):
    word = line.split()
    if word[0] in ("sqf", "pytorch"):
        for stage in ("factor", "quantize", "total", "cpu"):
            seconds.setdefault((word[3], stage), {}).setdefault(word[0], []).append(float(word[word.index(stage) + 1]))
print("columns  stage      sqf best  median   pytorch best  median   ratio best  median   (seconds)")
for (columns, stage), by in seconds.items():
    best = [min(by[name]) for name in ("sqf", "pytorch")]
    median = [statistics.median(by[name]) for name in ("sqf", "pytorch")]
    print(f"{columns:>7}  {stage:9}  {best[0]:8.3f}  {median[0]:6.3f}   {best[1]:12.3f}  {median[1]:6.3f}"
          f"   {best[1] / best[0]:10.1f}  {median[1] / median[0]:6.1f}")
EOF
