"""What a server on the network may cost and say: time, bytes and names, bounded for every exchange."""
