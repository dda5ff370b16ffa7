#!/bin/sh
# Where output cannot be written, or nobody reads it.
. "$(dirname "$0")/check.sh"

if [ -c /dev/full ]; then
    for arguments in "version" "help" "schemes --json" "eval --help"; do
        "$sqf" $arguments >/dev/full 2>"$scratch/err"
        code=$?
        [ $code -eq 1 ] || complain "sqf $arguments >/dev/full: exit code $code, expected 1"
        grep -q "^sqf: standard output: cannot write: No space left on device$" "$scratch/err" ||
            complain "sqf $arguments >/dev/full: $(cat "$scratch/err")"
    done
fi

# A reader that stops early gets no complaint.
{
    "$sqf" help --markdown 2>"$scratch/err"
    echo $? >"$scratch/code"
} | head -c 1 >/dev/null
[ ! -s "$scratch/err" ] || complain "closed pipe: $(cat "$scratch/err")"

expect_error 1 "/nowhere/man: cannot make the directory: *" "$sqf" help --man /nowhere/man
finish
