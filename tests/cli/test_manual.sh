#!/bin/sh
# docs/cli.md and the man pages say what the option tables say.
. "$(dirname "$0")/check.sh"

"$sqf" help --markdown >cli.md
cmp cli.md "$source/docs/cli.md" || complain "docs/cli.md is out of date: run make docs"
expect 0 "" "" "$sqf" help --man man1
for command in quantize eval run tokenize inspect compare sweep report schemes bench version help; do
    grep -q "^## sqf $command$" cli.md || complain "docs/cli.md: $command is missing"
    grep -q "^\.TH \"sqf-$command\" 1" "man1/sqf-$command.1" || complain "man page of $command"
    grep -q "sqf\\\\-$command" man1/sqf.1 || complain "sqf.1 does not name $command"
done
# every option of the help is in the page, and every page is clean troff where a checker is at hand
for option in text window max-tokens reference windowing special threads json; do
    grep -q -- "\`.*--$option" cli.md || complain "docs/cli.md: --$option is missing"
    escaped=$(printf '%s' "--$option" | sed 's/-/\\-/g')
    grep -qF -e "$escaped" man1/sqf-eval.1 || complain "man page: --$option"
done
if command -v groff >/dev/null; then
    for page in man1/*.1; do
        warnings=$(groff -man -Tutf8 -ww -z "$page" 2>&1)
        [ -z "$warnings" ] || complain "$page: $warnings"
    done
fi
finish
