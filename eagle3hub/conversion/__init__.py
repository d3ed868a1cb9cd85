"""Convert a head from one layout to another: read once, plan, write, verify."""
