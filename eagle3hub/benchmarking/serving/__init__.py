"""Measure speed and acceptance under load: servers of a head and of its baselines, over data sets and concurrencies.

`serving_plan` checks what is asked, `run_serving` starts one server after the other and sends it the prompts with
AIPerf, `results` holds what came and derives every number, `table` prints it.
"""

from __future__ import annotations
