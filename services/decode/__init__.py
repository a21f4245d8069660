"""Cuts sources into segments, and decodes segments into batches of frames.

Takes `SplitMessage` (queue `split`) and `SegmentMessage` (queue `decode.ARENA`); gives a
`BatchMessage` to infer for each batch. Holds a decoded slot per batch until that is handed on.
"""
