"""The command line. One file per command, no logic."""
