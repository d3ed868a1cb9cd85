"""What the other packages need of the machine: bounded reads, documents, signals, text, progress."""
