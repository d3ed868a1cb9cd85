"""Answer the questions of a probe, each in a process of its own; every engine's probe worker runs this loop.

The request has

- ``targets``: folders of small targets, by name (see `layers_run` for what their states say);
- ``questions``: each with ``name``, ``folder`` (the head), ``target`` (a name), ``inputs`` (a safetensors file, see
  `draft`) and ``settings`` (``parallel_drafting``, ``tensor_parallel``, ``dtype``,
  ``own_kernels``; none of them need be there);
- ``result``: the folder for tensors; ``device``; ``together``: how many questions to answer at a time; ``seconds``:
  the longest that one may take.

A worker imports its engine once, starts no CUDA (a process that has cannot be forked), and gives `answer_all` a
function. ``answer(question, request, found)`` runs one head, in a process forked for it, so that a crash is an answer
too: before each stage it calls ``found.at(stage)`` (``config``, ``load``, ``taps``, ``forward``), it writes what it
sees into ``found.facts``, and it returns the tensors.

For each question the worker reports one event ``answer`` with ``name``, ``ended`` (``ran``, ``raised``, ``died``, or
``not_asked``: see `NotAskedError`),
``stage``, ``seconds``, for an exception its ``kind`` and ``message``, for a death how the process ended, and the
facts: ``class`` (of the draft), ``architecture`` (as resolved), ``loaded``, ``not_loaded``, ``ignored`` (names of
tensors), ``taps`` (boundary ids that were captured, ``"final"`` for the final hidden state after its norm, in order),
and ``other_taps`` (by runner, the same for runners that only differ in this, or ``{"kind", "message"}``). Tensors lie
in ``RESULT/NAME.safetensors``: ``first`` [T, V] and ``draft`` [steps, V] of `draft`, in float32.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pathlib
import signal
import sys
import threading
import time
import traceback


class NotAskedError(Exception):
    """The question cannot be asked here: the message says why."""


class Found:
    """What is known so far of one question; kept on disk, so that it outlives the process."""

    def __init__(self, file, name):
        self._file = file
        self._start = time.monotonic()
        self.facts = {}
        self.stage = "start"
        self.name = name

    def step_back(self):
        """Keep nothing from now on, and end with the parent: this process is a further rank of its world."""
        self._file, parent = None, os.getppid()

        def watch():
            while os.getppid() == parent:
                time.sleep(0.1)
            os._exit(0)

        threading.Thread(target=watch, daemon=True).start()

    def at(self, stage):
        """Note that ``stage`` begins."""
        self.stage = stage
        self.write("died")

    def write(self, ended, **more):
        """Keep how the question ended, with the facts so far."""
        if self._file is None:
            return
        seconds = round(time.monotonic() - self._start, 2)
        told = {"name": self.name, "ended": ended, "stage": self.stage, "seconds": seconds, **self.facts, **more}
        self._file.write_text(json.dumps(told), encoding="utf-8")


def in_a_process(check):
    """Call ``check`` in a process of its own, which may start a device. Raises RuntimeError with what it raised."""
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        try:
            check()
            os._exit(0)
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:2000])
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read().decode(errors="replace")
    if os.waitpid(process, 0)[1]:
        raise RuntimeError(said or "its process died")


def answer_all(request, tell, answer, *, share=True):
    """Answer every question of ``request``, a few at a time; see the text above for ``answer``.

    ``share``: whether this process imports what the first answer's had to import.
    """
    result = pathlib.Path(request["result"])
    left, running, together = list(request["questions"]), {}, 1
    while left or running:
        while left and len(running) < together:
            question = left.pop(0)
            sys.stderr.flush()
            gc.freeze()  # or each process would search all that it inherits whenever its engine collects garbage
            process = os.fork()
            if not process:
                _child(question, request, answer, result)
            running[process] = question, time.monotonic() + request["seconds"]
        done, status = os.waitpid(-1, os.WNOHANG)
        if done not in running:
            time.sleep(0.02)
            for process, (_, latest) in running.items():
                if time.monotonic() > latest:
                    os.kill(process, signal.SIGKILL)
            continue
        question, latest = running.pop(done)
        tell("answer", **_ended(question, status, result, late=time.monotonic() > latest))
        if share:
            _import_again(result)
        together = request["together"]


def _import_again(result):
    """Import what the first question's process had to import, so that the others have it."""
    file = result / "modules"
    if file.is_file():
        for name in json.loads(file.read_text(encoding="utf-8")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        file.unlink()


def _child(question, request, answer, result):
    found, before = Found(result / f"{question['name']}.json", question["name"]), set(sys.modules)
    try:
        found.at("start")
        tensors = answer(question, request, found)
        if tensors:
            _save(tensors, result / f"{question['name']}.safetensors")
        found.write("ran")
        if question is request["questions"][0]:
            new = [name for name in sys.modules if name not in before and sys.modules[name] is not None]
            (result / "modules").write_text(json.dumps(new), encoding="utf-8")
    except NotAskedError as reason:
        found.write("not_asked", message=str(reason))
    except BaseException as error:
        traceback.print_exc()
        found.write("raised", kind=type(error).__name__, message=str(error))
    finally:
        sys.stderr.flush()
        os._exit(0)


def _save(tensors, file):
    """Write tensors of torch, or arrays of numpy, in float32."""
    import numpy as np
    from safetensors.numpy import save_file

    own = {name: t if isinstance(t, np.ndarray) else t.float().cpu().numpy() for name, t in tensors.items()}
    save_file({name: np.ascontiguousarray(array, np.float32) for name, array in own.items()}, file)


def _ended(question, status, result, late):
    file = result / f"{question['name']}.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"ended": "died", "stage": "start"}
    told["name"] = question["name"]
    if told["ended"] == "died" or status:
        told["ended"] = "died"
        if late:
            told["message"] = "did not end in time"
        elif os.WIFSIGNALED(status):
            told["message"] = signal.Signals(os.WTERMSIG(status)).name
        else:
            told["message"] = f"exit status {os.waitstatus_to_exitcode(status)}"
    return told


def that_matter(model, watch, names, compute):
    """Return those of ``names`` (of parameters that were not filled) that what ``compute()`` returns depends on.

    ``watch``: the `load_watch.LoadWatch` of the loading of ``model``. Each vector is set to NaN in turn.
    """
    found = []
    parameters = dict(model.named_parameters())
    for name, (parts, untouched) in watch.untouched.items():
        parameter = parameters.get(name)
        asked = [part for part in parts if part in names]
        if not asked:
            continue
        packed = parameter is None or parameter.shape != untouched.shape
        if packed or parameter.dim() != 1 or not parameter.is_floating_point():
            found += asked  # every matrix matters, and an engine may have packed it by now
            continue
        before = parameter.data.clone()
        parameter.data[untouched] = float("nan")
        if any(bool(tensor.isnan().any()) for tensor in compute().values()):
            found += asked
        parameter.data.copy_(before)
    return found


def draft(arrays, forward, inputs, features, masked=None):
    """Run a draft model without its KV cache, the whole sequence again in every step.

    Returns logits: ``first`` [T, V] of the first step at every position, ``draft`` [steps, V] of a draft at the end.
    ``arrays``: torch or numpy. ``forward``: (token ids [n], positions [n], features [n, H]) -> logits [n, V], what the
    last of them feeds back [n, H]. ``inputs["drafted"]`` are the tokens it is fed with; ``masked`` takes their place
    and that of what is fed back.
    """
    tokens, rows = inputs["token_ids"], []
    first = None
    for step in range(len(inputs["drafted"]) + 1):
        logits, carried = forward(tokens, arrays.arange(len(tokens), device=tokens.device), features)
        first = logits if first is None else first
        rows.append(logits[-1])
        token, feature = (inputs["drafted"][step : step + 1], carried[-1:]) if masked is None else masked
        tokens, features = arrays.concatenate([tokens, token]), arrays.concatenate([features, feature])
    return {"first": first, "draft": arrays.stack(rows)}


def layers_run(states, layers):
    """Return how many layers of a probe's target have run to give ``states`` [T, H], or None if it cannot tell.

    In such a target, layer i (from 0) writes a positive number into dimension i + 1 and nothing else; dimension 0 and
    dimension ``layers + 1`` are 1 in every embedding, and the final norm sets the latter to zero: ``"final"``.
    """
    seen = abs(states) > 1e-6
    if not bool((seen == seen[0]).all(0)[: layers + 2].all()) or not bool(seen[0, 0]):
        return None
    row = seen[0, 1 : layers + 1].tolist()
    count = sum(row)
    if row != [True] * count + [False] * (layers - count):
        return None
    if bool(seen[0, layers + 1]):
        return count
    return "final" if count == layers else None
