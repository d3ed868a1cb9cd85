"""Programs run by an engine's own interpreter: standard library and that engine only."""
