"""What the rest needs of the machine it runs on: bounded reads, documents, signals, text, progress."""
