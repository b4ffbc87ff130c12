"""Train a transformer encoder that tells in which language a name is written, and write this folder's files.

    python -m samples.language_encoder.train

The names are those of countries, languages, currencies and scripts in eight languages, from the Unicode CLDR data that
the package ``babel`` carries. The input ``characters`` is int64, batch x 32: 0 is padding, 1 a character outside the
alphabet, then the alphabet of the training part in code point order.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from babel import Locale
from torch import nn

from samples.exporting import accuracy, compare_with_torch, export

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "de", "fr", "es", "pl", "fi", "hu", "tr")
CATEGORIES = ("territories", "languages", "currencies", "scripts")
LENGTH = 32
PADDING, UNKNOWN = 0, 1
WIDTH, HEADS, HIDDEN, LAYERS = 64, 4, 128, 2
SEED = 0
EPOCHS = 50
BATCH = 64
DROPOUT = 0.3
HIDDEN_CHARACTERS = 0.05


@dataclass(frozen=True)
class Name:
    """A name as CLDR has it; ``group`` is the English name, the same for all translations and all dated variants.

    ``groups`` are all the English names that it translates: Finnish Kreikka is Greece, and Greek.
    """

    text: str
    language: int
    group: str
    groups: frozenset[str]


def without_remarks(text: str) -> str:
    """Leave out what is in brackets, mostly years; compose accents."""
    return unicodedata.normalize("NFC", re.sub(r"\s*\(.*?\)", "", text)).strip()


def names() -> list[Name]:
    """All names that are written so in one of the languages only and fit the input, each once."""
    locales = [Locale(language) for language in LANGUAGES]
    found: list[tuple[str, int, str]] = []
    for category in CATEGORIES:
        for key, english in sorted(getattr(locales[0], category).items()):
            for language, locale in enumerate(locales):
                text = without_remarks(getattr(locale, category).get(key) or "")
                found.append((text, language, without_remarks(english)))
    written_in: dict[str, set[int]] = {}
    groups: dict[str, set[str]] = {}
    for text, language, group in found:
        written_in.setdefault(text.casefold(), set()).add(language)
        groups.setdefault(text.casefold(), set()).add(group)
    unique = {text.casefold(): (text, language, group) for text, language, group in reversed(found)}
    return [
        Name(text, language, group, frozenset(groups[folded]))
        for folded, (text, language, group) in sorted(unique.items())
        if 0 < len(text) <= LENGTH and len(written_in[folded]) == 1
    ]


def split(everything: list[Name], generator: np.random.Generator) -> tuple[list[Name], list[Name]]:
    """Training part and a held-out fifth of the groups, without the names that share another group with the former."""
    groups = sorted({name.group for name in everything})
    held_out = set(generator.choice(groups, size=len(groups) // 5, replace=False).tolist())
    training = [name for name in everything if name.group not in held_out]
    seen = {group for name in training for group in name.groups}
    return training, [name for name in everything if name.group in held_out and not name.groups & seen]


def encode(part: list[Name], alphabet: str) -> tuple[np.ndarray, np.ndarray]:
    """Character ids, names x LENGTH, and languages."""
    ids = np.zeros((len(part), LENGTH), np.int64)
    for row, name in zip(ids, part, strict=True):
        row[: len(name.text)] = [1 + UNKNOWN + alphabet.find(character) for character in name.text]
    return ids, np.array([name.language for name in part], np.int64)


class Attention(nn.Module):
    """Self-attention of all characters of a name; padding is seen by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``mask`` is added to the scores: batch x 1 x 1 x LENGTH, 0 or very negative."""
        query, key, value = (
            project(x).unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + mask
        joined: torch.Tensor = self.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return joined


class Layer(nn.Module):
    """Attention and feed-forward, each with its LayerNorm before it and a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.feed_forward_norm = nn.LayerNorm(WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Batch x LENGTH x WIDTH in and out."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        y: torch.Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return y


class Encoder(nn.Module):
    """Characters to one score per language."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(symbols, WIDTH, padding_idx=PADDING)
        self.neighbours = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.1)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.languages = nn.Linear(WIDTH, len(LANGUAGES))

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        """Each character with its two neighbours, the layers, the mean over the characters, a linear layer."""
        present = (characters != PADDING).to(torch.float32)
        mask = (present[:, None, None, :] - 1) * 1e4
        embedded = self.characters(characters)
        neighbours = self.neighbours(embedded.transpose(1, 2)).transpose(1, 2).relu()
        x = self.dropout(embedded + neighbours + self.positions)
        for layer in self.layers:
            x = layer(x, mask)
        weights = present[:, :, None]
        mean = (self.norm(x) * weights).sum(1) / weights.sum(1)
        scores: torch.Tensor = self.languages(mean)
        return scores


def train(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> None:
    """Minimise the cross entropy, some characters hidden at random; the number of epochs is fixed."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(ids) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(ids)).split(BATCH):
            batch = ids[chosen]
            hidden = (torch.rand(batch.shape) < HIDDEN_CHARACTERS) & (batch != PADDING)
            scores = model(batch.masked_fill(hidden, UNKNOWN))
            optimiser.zero_grad()
            nn.functional.cross_entropy(scores, labels[chosen], label_smoothing=0.05).backward()
            optimiser.step()
            schedule.step()


def main() -> None:
    """Train, write model.onnx, test.npz and calibration.npz, print the held-out accuracy."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    generator = np.random.default_rng(SEED)
    training, held_out = split(names(), generator)
    alphabet = "".join(sorted({character for name in training for character in name.text}))
    ids, labels = encode(training, alphabet)
    test_ids, test_labels = encode(held_out, alphabet)
    model = Encoder(1 + UNKNOWN + len(alphabet))
    train(model, torch.from_numpy(ids), torch.from_numpy(labels))
    export(model, torch.from_numpy(ids[:2]), FOLDER / "model.onnx", "characters", "logits")
    compare_with_torch(model, torch.from_numpy(test_ids), FOLDER / "model.onnx")
    np.savez_compressed(FOLDER / "test.npz", characters=test_ids, labels=test_labels)
    chosen = np.sort(generator.choice(len(ids), size=256, replace=False))
    np.savez_compressed(FOLDER / "calibration.npz", characters=ids[chosen])
    print(f"held-out accuracy {accuracy(FOLDER / 'model.onnx', FOLDER / 'test.npz'):.4f}")


if __name__ == "__main__":
    main()
