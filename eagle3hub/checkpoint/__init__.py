"""Bytes on disk: safetensors headers, shards, copying and hashing. Nothing here knows what a draft head is."""
