"""What the GPU path does on a real GPU, part by part, and what it is measured against.

    python -m benchmarks.gpu --out FOLDER [--only NAME]... [--quick]

Each part is a module with `measure(bench)`. Parts that touch the GPU do so in processes of their
own, so one that fails, even with a broken CUDA context, leaves the others alone.
`docs/gpu-bench.md` says what each figure means. Over the doubles of the vendors' packages the same
script is rehearsed; its figures mean nothing then, and every file says so.
"""
