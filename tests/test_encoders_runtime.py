"""OpenVINO as workers use it: several threads, one compiled graph."""

from __future__ import annotations

import subprocess
import sys

FIRST_CALLS_TOGETHER = """
import sys, threading
sys.setswitchinterval(1e-6)
import numpy as np
import openvino as ov
from openvino import opset13 as op
from cliploom.transforms.encoders.runtime import CompiledGraph

node = op.parameter([1, 8], np.float32)
result = op.result(op.relu(node))
result.output(0).get_tensor().set_names({"y"})
graph = CompiledGraph(ov.Model([result], [node]), ["y"], "f32", threads=4)
together = threading.Barrier(4)

def call():
    together.wait()
    graph.run([np.zeros((1, 8), np.float32)])

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_whose_first_calls_meet_do_not_wait_for_each_other() -> None:
    for _ in range(4):
        subprocess.run([sys.executable, "-c", FIRST_CALLS_TOGETHER], check=True, timeout=120)
