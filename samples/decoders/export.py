"""Export two decoders with random weights to ONNX, the way PyTorch does: one like GPT-2, one like Llama.

    python -m samples.decoders.export

writes ``gpt2.onnx`` (torch.onnx.export with tracing) and ``llama.onnx`` (with torch.export) into this folder. Both have
two layers, and keys and values of earlier tokens as inputs and outputs. They show forms, not skill: nothing is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent
LAYERS, WIDTH, HEADS, KEY_HEADS, WORDS, LONGEST = 2, 32, 4, 2, 61, 32
INPUTS = ["input_ids", "attention_mask", *(f"past.{i}.{what}" for i in range(LAYERS) for what in ("key", "value"))]
OUTPUTS = ["logits", *(name.replace("past", "present") for name in INPUTS[2:])]


class Decoder(torch.nn.Module):
    """A language model whose cache is a row of tensors: keys and values of a layer, then of the next."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *past: torch.Tensor) -> Any:
        """Scores of the next words, and the cache with the new keys and values."""
        cache = DynamicCache()
        for layer in range(LAYERS):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        kept = [value for layer in found.past_key_values.layers for value in (layer.keys, layer.values)]
        return (found.logits, *kept)


def example(heads: int) -> tuple[torch.Tensor, ...]:
    """Two sequences: five tokens in the cache, three new ones."""
    past = [torch.randn(2, heads, 5, WIDTH // HEADS) for _ in INPUTS[2:]]
    return (torch.randint(0, WORDS, (2, 3)), torch.ones(2, 8, dtype=torch.long), *past)


def export_gpt2(path: Path) -> None:
    """By tracing, as Hugging Face optimum does."""
    config = GPT2Config(vocab_size=WORDS, n_positions=LONGEST, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    axes = {"input_ids": {0: "batch", 1: "new"}, "attention_mask": {0: "batch", 1: "all"}}
    axes |= {name: {0: "batch", 2: "past"} for name in INPUTS[2:]} | {
        name: {0: "batch", 2: "all"} for name in OUTPUTS[1:]
    }
    torch.onnx.export(
        Decoder(GPT2LMHeadModel(config)).eval(),
        example(HEADS),
        str(path),
        dynamo=False,
        input_names=INPUTS,
        output_names=OUTPUTS,
        dynamic_axes=axes | {"logits": {0: "batch", 1: "new"}},
        opset_version=17,
    )


def export_llama(path: Path) -> None:
    """With torch.export."""
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=LONGEST,
    )
    free = torch.export.Dim.AUTO
    shapes = ({0: free, 1: free}, {0: free, 1: free}, tuple({0: free, 2: free} for _ in INPUTS[2:]))
    program = torch.onnx.export(
        Decoder(LlamaForCausalLM(config)).eval(),
        example(KEY_HEADS),
        dynamo=True,
        input_names=INPUTS,
        output_names=OUTPUTS,
        dynamic_shapes=shapes,
        opset_version=18,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch gave no program")
    program.save(str(path))


def leave_remarks_out(path: Path) -> None:
    """Where in which source file a node comes from is more than half of a small model."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def main() -> None:
    """Write both."""
    torch.manual_seed(0)
    for name, export in (("gpt2", export_gpt2), ("llama", export_llama)):
        export(FOLDER / f"{name}.onnx")
        leave_remarks_out(FOLDER / f"{name}.onnx")


if __name__ == "__main__":
    main()
