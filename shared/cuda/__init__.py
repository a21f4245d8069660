"""CUDA of one process: its device, memory that other processes may map, copies that are counted,
and kernels. The one place that imports CuPy.

Nothing here is imported where there is no GPU; what a stage needs of it, it gets from its runtime.
"""
