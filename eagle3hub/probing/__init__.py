"""Find out by experiment what an engine does with a draft head: build small heads, let the engine run them, compare.

`questions` is the catalogue, `heads` makes the heads, `run` asks an engine and judges what it computed, and `contract`
makes the answers into what `eagle3hub.engines.preflight` knows of a version.
"""
