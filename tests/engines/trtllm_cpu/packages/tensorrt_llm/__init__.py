"""A stand-in for TensorRT-LLM's API, on CPU and for tests only; ../../README.md says what it shows and what not."""

import os

import torch

__version__ = os.environ["TENSORRT_LLM_STAND_IN"]

torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda *_: "no device: a stand-in"

from tensorrt_llm import llmapi  # noqa: E402
from tensorrt_llm.llmapi import LLM, SamplingParams  # noqa: E402

__all__ = ["LLM", "SamplingParams", "llmapi"]
