# Sourced by the scripts of this folder: `. check.sh` with the program and the source tree as arguments.
# Each script runs in a scratch directory of its own and ends with `finish`.
sqf=$1 source=$2
model=$source/models/demo
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/work"
cd "$scratch/work" || exit 1
failures=0

# A variable that would change what the program says. SQF_CPU stays: every level says the same.
unset OPENBLAS_NUM_THREADS

complain() {
    failures=$((failures + 1))
    echo "FAILED: $*"
}

# expect CODE STDOUT_GLOB STDERR_GLOB COMMAND...: the globs match all of what was printed, without final line ends.
# Standard input is the file $input, or nothing.
expect() {
    code=$1 out_glob=$2 err_glob=$3
    shift 3
    found=0
    "$@" <"${input:-/dev/null}" >"$scratch/out" 2>"$scratch/err" || found=$?
    out=$(tr -d '\000' <"$scratch/out") err=$(cat "$scratch/err")
    [ "$found" -eq "$code" ] || complain "$*: exit code $found, expected $code: $err"
    case $out in
    $out_glob) ;;
    *) complain "$*: standard output '$out', expected '$out_glob'" ;;
    esac
    case $err in
    $err_glob) ;;
    *) complain "$*: standard error '$err', expected '$err_glob'" ;;
    esac
}

# A mistake gives one line on standard error that begins with "sqf: ", and nothing else.
expect_error() {
    code=$1 glob=$2
    shift 2
    expect "$code" "" "sqf: $glob" "$@"
    [ "$(wc -l <"$scratch/err")" -eq 1 ] || complain "$*: standard error has $(wc -l <"$scratch/err") lines, expected 1"
}

# member NAME: the number, word or string that the last JSON output gives a member at its outer level.
member() {
    sed -n "s/^  \"$1\": //p" "$scratch/out" | head -1 | sed -e 's/,$//' -e 's/^"//' -e 's/"$//'
}

# expect_members NAME...: the last output is a JSON object with these members at its outer level.
expect_members() {
    [ "$(head -c 1 "$scratch/out")" = "{" ] || complain "JSON: expected an object"
    for name in "$@"; do
        grep -q "^  \"$name\": " "$scratch/out" || complain "JSON: member $name is missing"
    done
}

# is EXPRESSION: arithmetic of awk that must be true.
is() {
    awk "BEGIN { exit !($1) }" || complain "$1 is not so"
}

finish() {
    [ "$failures" -eq 0 ] || exit 1
    exit 0
}
