from __future__ import annotations

import subprocess
import sys


def test_metrics_are_the_standard_library_alone() -> None:
    code = (
        "import sys, eagle3hub.metrics.definitions, eagle3hub.validation.gates\n"
        "print(sorted({'numpy', 'torch', 'yaml', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
