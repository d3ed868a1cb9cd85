"""Run by the interpreter that has this folder on its path: sglang-jax on CPU, with the stand-in."""

import tpu_stand_in

tpu_stand_in.install()
