"""Looks at models outside of any job: does a file work, how fast is it.

No worker imports this. Each module is a process of its own, `python -m services.infer.lab.NAME`:
one request on standard input, one answer on standard output (`shared.models.lab`).
"""
