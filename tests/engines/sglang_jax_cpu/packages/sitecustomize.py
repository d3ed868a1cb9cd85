"""Run by every interpreter that has this folder on its path: sglang-jax on CPU, with the stand-in."""

import os

import tpu_stand_in

tpu_stand_in.install(fixed=os.environ.get("SGLANG_JAX_FIXED") == "1")
