"""Convert folders to GGUF files with llama.cpp's own converter, and report which tensors of a head it used.

The only argument is JSON: ``converter`` (the folder with convert_hf_to_gguf.py), ``report`` (file to write),
``conversions`` (each with ``folder``, ``gguf``, ``dtype`` as the converter writes it, and for a head ``target``). The
report is one JSON object with ``ignored``, the tensors of the head that did not reach its GGUF file, or ``error``.
"""

from __future__ import annotations

import json
import logging
import pathlib
import sys


class Watch:
    """Record which tensors the converter found, used and wrote."""

    def __init__(self, base, model, writer):
        self.found, self.taken, self.written = [], set(), set()
        self._wrap_index(base)
        self._wrap_modify(model)
        self._wrap_add(writer)

    def begin(self):
        """Forget the previous conversion."""
        self.found, self.taken, self.written = [], set(), set()

    def ignored(self):
        """Return the tensors that the converter did not use; it writes d2t separately from the others."""
        kept = self.taken | ({"d2t"} & self.written)
        return [name for name in self.found if name not in kept and _renamed(name) not in kept]

    def _wrap_index(self, base):
        index_tensors = base.index_tensors

        def index(model, *args, **kwargs):
            tensors = index_tensors(model, *args, **kwargs)
            self.found = list(tensors)
            return tensors

        base.index_tensors = index

    def _wrap_modify(self, model):
        modify_tensors = model.modify_tensors

        def modify(converter, data, name, bid):
            for made in modify_tensors(converter, data, name, bid):
                self.taken.add(name)
                yield made

        model.modify_tensors = modify

    def _wrap_add(self, writer):
        add_tensor = writer.add_tensor

        def add(gguf, name, *args, **kwargs):
            self.written.add(name)
            return add_tensor(gguf, name, *args, **kwargs)

        writer.add_tensor = add


def _renamed(name):
    """Return the converter's name for a tensor of a draft's only layer."""
    for prefix in ("midlayer.", "layers.0."):
        if name.startswith(prefix):
            return "model.layers.0." + name[len(prefix) :]
    return name


class _Errors(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def convert(request):
    """Do the conversions, and return the report."""
    sys.path.insert(0, request["converter"])
    import convert_hf_to_gguf
    import gguf
    from conversion.base import ModelBase
    from conversion.llama import LlamaModel

    errors = _Errors()
    logging.getLogger().addHandler(errors)
    watch = Watch(ModelBase, LlamaModel, gguf.GGUFWriter)
    ignored = []
    for one in request["conversions"]:
        watch.begin()
        words = [one["folder"], "--outfile", one["gguf"], "--outtype", one["dtype"]]
        words += ["--target-model-dir", one["target"]] if "target" in one else []
        sys.argv = ["convert_hf_to_gguf.py", *words]
        try:
            convert_hf_to_gguf.main()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        except SystemExit as end:
            if end.code:
                return {"error": errors.messages[-1] if errors.messages else f"it ended with exit status {end.code}"}
        if "target" in one:
            ignored = watch.ignored()
    return {"ignored": ignored}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    pathlib.Path(asked["report"]).write_text(json.dumps(convert(asked)), encoding="utf-8")
