#!/bin/sh
# Installs into a scratch prefix and uses what is there as a stranger would: pkg-config, CMake, C and C++, the manual.
# usage: installed.sh SOURCE BUILD
set -eu
source=$1 build=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix
cmake --install "$build" --prefix "$prefix" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }

expected=$("$prefix/bin/sqf" version | head -1)
echo "installed: $expected"

export PKG_CONFIG_PATH="$prefix/lib/pkgconfig:$(ls -d "$prefix"/lib/*/pkgconfig 2>/dev/null || true)"
libdir=$(pkg-config --variable=libdir libsqf)
cc "$source/examples/perplexity.c" -Wall -Wextra -Werror $(pkg-config --cflags --libs libsqf) -lm -o "$scratch/by-pkg-config"
run() {
    LD_LIBRARY_PATH=$libdir OPENBLAS_NUM_THREADS=1 "$1" "$source/models/demo" "$source/models/demo/text/eval.txt" 512 >"$scratch/out"
    cat "$scratch/out"
    grep -q 'perplexity [0-9][0-9]*\.[0-9]' "$scratch/out"
}
run "$scratch/by-pkg-config"
cp "$scratch/out" "$scratch/first"

cmake -S "$source/examples" -B "$scratch/examples" -DCMAKE_PREFIX_PATH="$prefix" >"$scratch/log" 2>&1 &&
    cmake --build "$scratch/examples" >>"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
for program in perplexity_shared perplexity_static; do
    run "$scratch/examples/$program"
    cmp "$scratch/out" "$scratch/first"
done

# Every public header stands alone, in C and in C++.
for header in "$prefix"/include/sqf/*.h; do
    name=$(basename "$header")
    echo "#include <sqf/$name>" | cc -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only -x c -
    echo "#include <sqf/$name>" | c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only -x c++ -
done

# The shared library exports sqf_ names alone.
others=$(nm -D --defined-only "$libdir/libsqf.so" | awk '{print $3}' | grep -v '^sqf_' || true)
[ -z "$others" ] || { echo "exported beside sqf_ names: $others"; exit 1; }

ls "$prefix"/share/man/man1/sqf*.1 >/dev/null
