"""The watch folder: what is dropped into it is sent to the service once, its result fetched."""
