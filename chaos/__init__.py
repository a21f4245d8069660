"""Faults at random against a real stack, by seed: `python -m chaos --seed 7 --minutes 5`.

Jobs are submitted, cancelled and watched while processes are killed and frozen, Redis goes away,
messages come twice and late. Every job has to end with the picture of an undisturbed run, and
nothing may be left behind. See docs/operations.md.
"""
