"""Let torchvision be imported beside the CPU build of torch.

SGLang imports torchvision. The wheel on the package index is built for CUDA: its compiled library does not load here,
and its Python part then asks torch for two operators that library would have declared. They are declared, without any
implementation, right before torchvision is imported; SGLang never calls them for a language model.
"""

import importlib.abc
import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Find no module; declare torchvision's operators when somebody imports it."""

    library = None

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision" and self.library is None:
            import torch

            type(self).library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in SCHEMAS:
                self.library.define(schema)


sys.meta_path.insert(0, _BeforeTorchvision())
