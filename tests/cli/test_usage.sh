#!/bin/sh
# Help and mistakes on the command line: where the text goes, what it says, exit codes.
. "$(dirname "$0")/check.sh"

expect 2 "" "sqf: make, measure and run*usage: sqf COMMAND*" "$sqf"
for word in help --help -h; do
    expect 0 "sqf: make, measure and run*usage: sqf COMMAND*quantize*Exit codes: 0 done*" "" "$sqf" $word
done
for command in quantize eval run tokenize inspect compare schemes bench version help; do
    expect 0 "usage: sqf $command*common options:*examples:*sqf $command*" "" "$sqf" $command --help
    expect 0 "usage: sqf $command*" "" "$sqf" help $command
    # help wins over everything else on the line
    expect 0 "usage: sqf $command*" "" "$sqf" $command --nonsense -h
    expect_error 2 "--nonsense: unknown option, see sqf $command --help" "$sqf" $command --nonsense
    expect_error 2 "--threads x: expected a whole number from 0 to 1024 (default 0)" "$sqf" $command --threads x
done
expect 0 "sqf [0-9]*.[0-9]*.[0-9]*compiler*cpu level*blas*threads*" "" "$sqf" --version
expect 0 "*cpu level  scalar *" "" env SQF_CPU=scalar "$sqf" version
expect 0 "*" "" "$sqf" version --json --threads 3
expect_members version compiler cpu_level cpu_levels blas threads
[ "$(member threads)" = 3 ] || complain "threads: $(member threads), expected 3"
expect_error 1 "*abacus*" env SQF_CPU=abacus "$sqf" version

expect_error 2 "frobnicate: unknown command, see sqf help" "$sqf" frobnicate
expect_error 2 "frobnicate: unknown command, see sqf help" "$sqf" help frobnicate
expect_error 2 "eval: expected MODEL, see sqf eval --help" "$sqf" eval --text x
expect_error 2 "eval: --text is missing, see sqf eval --help" "$sqf" eval m
expect_error 2 "n: unexpected, usage: sqf eval MODEL*" "$sqf" eval m n --text x
expect_error 2 "--window 1: expected a whole number from 3 to * (default 2048)" "$sqf" eval m --text x --window 1
expect_error 2 "--windowing half: expected one of standard, llama.cpp (default standard)" \
    "$sqf" eval m --text x --windowing half
expect_error 2 "--temp -1: expected a number from 0 to 100" "$sqf" run m --temp -1
expect_error 2 "-n: expected a value (N)" "$sqf" run m -n
expect_error 2 "--prefill 0 --decode 0: expected one of them above 0" "$sqf" bench m --prefill 0 --decode 0
expect_error 2 "inspect: --check looks at the whole model*" "$sqf" inspect m t --check

expect_error 2 "quantize: --output is missing*" "$sqf" quantize m --scheme w4a4 --calib none
expect_error 2 "quantize: --scheme or --recipe is missing*" "$sqf" quantize m -o out --calib none
expect_error 2 "quantize: --calib is missing*" "$sqf" quantize m -o out --scheme w4a4
expect_error 2 "--scheme w99: *" "$sqf" quantize m -o out --scheme w99 --calib none
expect_error 2 "--bank 0: expected a whole number from 1 to 65536, found '0'" \
    "$sqf" quantize m -o out --scheme w-sq6-a8 --calib none --bank 0
expect_error 2 "--smooth 2: expected *off*" "$sqf" quantize m -o out --scheme w4a8 --calib none --smooth 2
expect_error 2 "--mask-mode often: expected static*" \
    "$sqf" quantize m -o out --scheme w4a-sq6 --calib none --mask-mode often
expect_error 2 "--ignore re:(: *" "$sqf" quantize m -o out --scheme w4a8 --calib none --ignore 're:('

expect 0 "scheme*W4A(SQ6)*w4a-sq6*" "" "$sqf" schemes
expect 0 "*W(SQ5)A8*w-sq5-a8*low=*" "" "$sqf" schemes w-sq5-a8
expect 0 "scheme*MXFP4*NVFP4*w-mxfp4-a-mxfp8*" "" "$sqf" schemes --rivals
expect 0 "*" "" "$sqf" schemes --json
expect_members schemes
expect_error 1 "*w99*" "$sqf" schemes w99
[ -z "$(ls)" ] || complain "files were left: $(ls)"
finish
