"""Does a process get on, and can it work? Asked over HTTP, or by `python -m shared.health`.

Imports nothing here: the command has to be quick.
"""
