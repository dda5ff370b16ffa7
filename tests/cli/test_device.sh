#!/bin/sh
# --device: what runs on a GPU (executed by the emulation), and the sentence for every reason that nothing can.
# usage: SQF_EMULATED=LIBRARY SQF_FAKE_BACKEND=LIBRARY test_device.sh SQF SOURCE
emulated=$SQF_EMULATED fake=$SQF_FAKE_BACKEND
unset SQF_DEVICE SQF_CUDA_LIBRARY CUDA_VISIBLE_DEVICES
. "$(dirname "$0")/check.sh"
golden=$source/tests/golden/models/static-mask

expect_error 2 '*--device: expected cpu, cuda or cuda:N, found "gpu"' "$sqf" run "$model" -p A -n 1 --device gpu
expect_error 2 '*--device: unknown option*' "$sqf" inspect "$model" --device cuda
# The program alone: beside the one that was built the library may stand too.
cp "$sqf" alone
expect_error 1 '*libsqf_cuda.so not found*make cuda*' ./alone run "$model" -p A -n 1 --device cuda
expect_error 1 '*libsqf_cuda.so not found*' env SQF_DEVICE=cuda ./alone bench "$model" -p 1 -n 0
expect_error 1 '*SQF_CUDA_LIBRARY: /nowhere*' env SQF_CUDA_LIBRARY=/nowhere "$sqf" run "$model" -p A --device cuda
if [ -n "$fake" ]; then
    export SQF_CUDA_LIBRARY="$fake"
    expect_error 1 '*expected version 1, found 2*' env SQF_FAKE=version "$sqf" run "$model" -p A --device cuda
    expect_error 1 '*no NVIDIA driver is installed' env SQF_FAKE=driver "$sqf" run "$model" -p A --device cuda
    expect_error 1 '*no device found (CUDA_VISIBLE_DEVICES is "")' \
        env SQF_FAKE=none CUDA_VISIBLE_DEVICES= "$sqf" run "$model" -p A --device cuda
    expect_error 1 '*cuda:4: no such device, found 1*' env SQF_FAKE=one "$sqf" run "$model" -p A --device cuda:4
fi

# What was asked for on the command line comes before the environment; commands without the option use the CPU.
expect 0 '*"device": "cpu"*' "" env SQF_DEVICE=cuda "$sqf" run "$model" -p A -n 0 --device cpu --json -q
expect 0 "*" "" env SQF_DEVICE=cuda "$sqf" compare "$model" "$model" --json

if [ -n "$emulated" ]; then
    export SQF_CUDA_LIBRARY="$emulated"
    expect 0 '*"device": "cuda:0: *' "" "$sqf" run "$model" -p "The captain" -n 4 --temp 0 --json -q --device cuda
    member text >gpu
    expect 0 "*" "" "$sqf" run "$model" -p "The captain" -n 4 --temp 0 --json -q
    member text >cpu
    cmp cpu gpu || complain "the device's text differs: $(cat gpu), expected $(cat cpu)"
    expect 0 '*"device": "cuda:0: *' "" "$sqf" bench "$golden" -p 4 -n 3 -b 1,3 -r 1 --json -q --device cuda:0
    expect_error 2 '*--roofs: those of the CPU*' "$sqf" bench "$golden" -p 4 -n 0 --roofs --device cuda
    printf 'It was a dark and stormy night; the rain fell in torrents, except at occasional intervals.' >text
    integers=$source/tests/golden/models/tied-vocabulary
    expect 0 '*"device": "cuda:0: *' "" "$sqf" eval "$integers" --text text --window 16 --json -q --device cuda
    perplexity=$(member perplexity)
    expect 0 "*" "" "$sqf" eval "$integers" --text text --window 16 --json -q
    is "($perplexity / $(member perplexity) - 1) ^ 2 < 4e-8"
    expect_error 1 '*cuda:1: no such device, found 1*' "$sqf" run "$model" -p A --device cuda:1
    # 7.3 MB of weights do not fit 5 MB, before any is read
    expect_error 1 '*cuda:0: needs * MB (weights *, KV cache *, buffers *), 5.0 MB are free: * MB short' \
        env SQF_EMULATION_MEMORY=5000000 "$sqf" run "$model" -p A -n 4 --device cuda
    expect_error 1 '*KV cache [1-9]*short' \
        env SQF_EMULATION_MEMORY=60000000 "$sqf" bench "$model" -p 0 -n 1000 -b 64 --kv f32 --device cuda
fi
finish
