"""Release one head or several: from a manifest to published repositories."""
