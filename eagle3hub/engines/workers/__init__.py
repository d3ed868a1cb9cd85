"""Programs that run in an engine's own interpreter; they import only the standard library and that engine."""
