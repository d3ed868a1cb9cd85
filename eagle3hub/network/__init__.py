"""Limit what a server may cost (time, bytes) and what it may say (names), in every exchange."""
