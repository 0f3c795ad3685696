"""Bytes on disk: reading files in ranges, writing them so that nothing is ever half there."""
