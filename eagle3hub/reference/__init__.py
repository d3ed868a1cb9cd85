"""The reference: what an EAGLE-3 head computes, in plain torch, and the acceptance that results."""
