"""Tracks people, steers the virtual cameras, renders the tiles.

Takes `BatchMessage` of a decoded slot (queue `compose.ARENA`); gives one of a composed slot to
encode. Holds a composed slot while it renders, then gives the decoded slot back.
"""
