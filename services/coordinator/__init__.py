"""Admission, fair dispatch, recovery, and cleaning up: the one process that sees all jobs.

Takes nothing from a queue: it watches the ledger. Gives `SplitMessage`, `SegmentMessage` and
`MuxMessage` to the stages. Holds nothing: all it must not forget is in the ledger.
"""
