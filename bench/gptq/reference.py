"""GPTQ in PyTorch, as the algorithm is usually written; the yardstick of bench_gptq.

    reference.py ROWS COLUMNS DIRECTORY [THREADS]

Reads weights.f32 and hessian.f32 (bench_gptq make), prints the seconds of both stages and the processor seconds of all
threads, and with COMPARE set in the environment compares its result with sqf.f32
(bench_gptq run). Symmetric int4, groups of 128 columns, scales absmax / 7 rounded to fp16.
"""
import os
import sys
import time

import numpy
import torch

BLOCK = GROUP = 128
QMAX = 7


def load(directory, name, rows, columns):
    array = numpy.fromfile(os.path.join(directory, name), dtype=numpy.float32)
    return torch.from_numpy(array).reshape(rows, columns)


def factorize(hessian, damping=0.01):
    h = hessian.clone()
    diagonal = torch.arange(h.shape[0])
    h[diagonal, diagonal] += damping * torch.mean(torch.diag(h))
    h = torch.linalg.cholesky(h)
    h = torch.cholesky_inverse(h)
    return torch.linalg.cholesky(h, upper=True)


def quantize(weights, upper):
    w = weights.clone()
    columns = w.shape[1]
    q = torch.zeros_like(w)
    codes = torch.zeros_like(w)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        block = w[:, begin:end].clone()
        errors = torch.zeros_like(block)
        u = upper[begin:end, begin:end]
        for j in range(end - begin):
            if (begin + j) % GROUP == 0:
                group = block[:, j : j + GROUP]
                scale = (group.abs().amax(dim=1) / QMAX).half().float()
            column = block[:, j]
            code = torch.clamp(torch.round(column / scale), -QMAX, QMAX)
            codes[:, begin + j] = code
            q[:, begin + j] = code * scale
            error = (column - code * scale) / u[j, j]
            block[:, j:] -= error.unsqueeze(1).matmul(u[j, j:].unsqueeze(0))
            errors[:, j] = error
        w[:, end:] -= errors.matmul(upper[begin:end, end:])
    return q, codes


def output_error(weights, q, hessian):
    d = weights - q
    return float(((d @ hessian) * d).double().sum() / ((weights @ hessian) * weights).double().sum())


def main():
    rows, columns, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    weights = load(directory, "weights.f32", rows, columns)
    hessian = load(directory, "hessian.f32", columns, columns)
    small = hessian[:256, :256].contiguous()
    quantize(weights[:64, :256], factorize(small))  # start threads and libraries before the clock
    cpu = time.process_time()
    begin = time.perf_counter()
    upper = factorize(hessian)
    factored = time.perf_counter()
    q, _ = quantize(weights, upper)
    end = time.perf_counter()
    cpu = time.process_time() - cpu
    print(f"pytorch  {rows:5d} x {columns:5d}  factor {factored - begin:8.3f} s  quantize {end - factored:8.3f} s"
          f"  total {end - begin:8.3f} s  cpu {cpu:8.3f} s", flush=True)
    if os.environ.get("COMPARE"):
        other = load(directory, "sqf.f32", rows, columns)
        same = float((other == q).double().mean())
        print(f"compared {rows:5d} x {columns:5d}  equal weights {100 * same:.3f} %"
              f"  output error pytorch {output_error(weights, q, hessian):.6e}"
              f"  sqf {output_error(weights, other, hessian):.6e}", flush=True)


main()
