"""Nobody hears of what is detected here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

OPENS_A_SESSION = """
import sys
from pathlib import Path
from onnx import TensorProto, helper
import services.infer.tasks
from services.infer.engines.onnx_session import CPU, ort

value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
ort.InferenceSession(model.SerializeToString(), options(), providers=[CPU])
print(Path("/proc/self/status").read_text().partition("Threads:")[2].split()[0])
"""
ONE_THREAD = """
def options():
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
    return chosen
"""


def told(home: Path, program: str) -> tuple[int, list[Path]]:
    """Threads of a process that opened a session of ONNX Runtime, and what it left at home."""
    # It keeps quiet in CI by itself.
    dropped = ("ORT_", "XDG_", "CI", "GITHUB_", "GITLAB_", "TF_BUILD", "BUILD_", "JENKINS_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout), sorted(path for path in home.rglob("*") if path.is_file())


def test_onnx_runtime_tells_nobody_and_starts_no_thread_to_do_it(tmp_path: Path) -> None:
    """A thread at import would be there when workers are forked, with whatever locks it holds."""
    assert told(tmp_path, ONE_THREAD + OPENS_A_SESSION) == (1, [])
