"""Bytes: safetensors and torch pickles, in folders and on the Hub; copying, hashing. No draft heads here."""
