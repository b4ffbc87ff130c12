"""pfmc: a compiler from trained ONNX networks to fixed physical layouts.

bundle = pfmc.compile("model.onnx", "chip", technology="sg13g2", calibration="calibration.npz")
bundle.verify("test.npz").outputs["logits"].relative_error
"""

from pfmc import physics
from pfmc._version import __version__
from pfmc.api import Bundle, compile, open, plan
from pfmc.check.verify import Verification
from pfmc.errors import PfmcError

__all__ = ["Bundle", "PfmcError", "Verification", "__version__", "compile", "open", "physics", "plan"]
