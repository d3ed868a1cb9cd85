"""From a manifest to a published release, for one head or several."""
