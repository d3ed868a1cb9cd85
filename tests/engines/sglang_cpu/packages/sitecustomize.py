"""Let torchvision be imported beside the CPU build of torch, and MLA drafts be loaded without CUDA.

SGLang imports torchvision. The wheel on the package index is built for CUDA: its compiled library does not load here,
and its Python part then asks torch for two operators that library would have declared. They are declared, without any
implementation, right before torchvision is imported; SGLang never calls them for a language model.

SGLang's class of MLA drafts empties CUDA's cache after it has taken the target's embeddings, whatever the device is.
"""

import importlib.abc
import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _BeforeImports(importlib.abc.MetaPathFinder):
    """Find no module; prepare what somebody is about to import."""

    library = None

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "sglang.srt.models.kimi_k25_eagle3":
            import torch

            torch.cuda.empty_cache = torch.cuda.synchronize = lambda *a: None
        if fullname == "torchvision" and self.library is None:
            import torch

            type(self).library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in SCHEMAS:
                self.library.define(schema)


sys.meta_path.insert(0, _BeforeImports())
