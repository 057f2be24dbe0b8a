"""A tiny trained model of every family that the methods must serve, each with data that can be learned.

Kept apart from `testing_tasks` because some need `transformers` (`pip install autocompress[transformers]`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from autocompress.metric import ACCURACY, Metric
from autocompress.task import Task
from autocompress.testing_tasks import CLASSES, bright_quarters, features, images, train_task

VOCABULARY, LENGTH = 32, 8


class TokenEncoder(nn.Module):
    """`nn.TransformerEncoder` over token embeddings, averaged: tokens (B, T) to logits (B, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(self.embedding(tokens)).mean(dim=1))
        return output


class RecurrentClassifier(nn.Module):
    """Sequences (B, T, 6) to logits (B, classes), from the mean over time of a recurrent net's outputs."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.rnn = kind(6, 24, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(24 * (1 + bidirectional), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(x)[0].mean(dim=1))
        return logits


class VariableLength(nn.Module):
    """A GRU over padded sequences (B, T, 6) and their lengths (B,), classified by its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 24, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        logits: Tensor = self.head(self.rnn(packed)[1][-1])
        return logits


class CharLSTM(nn.Module):
    """Next-token logits (B, T, vocabulary) of tokens (B, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.rnn = nn.LSTM(16, 32, num_layers=2, batch_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rnn(self.embedding(tokens))[0])
        return logits


class Recommender(nn.Module):
    """Ratings (B,) of users (B,) and items (B,): embeddings and a perceptron (He et al. 2017, "NCF")."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(64, 16), nn.Embedding(128, 16)
        self.mlp = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        rating: Tensor = self.mlp(torch.cat([self.users(users), self.items(items)], dim=1))
        return rating.squeeze(1)


class GRU4Rec(nn.Module):
    """Scores of all next items (B, items) from a session of items (B, T) (Hidasi et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(VOCABULARY, 24)
        self.rnn = nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(24, VOCABULARY)

    def forward(self, session: Tensor) -> Tensor:
        scores: Tensor = self.head(self.rnn(self.items(session))[0][:, -1])
        return scores


class TwoHeads(nn.Module):
    """A class (B, classes) and a value (B,) of the same features (B, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.classes, self.value = nn.Linear(32, CLASSES), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.classes(hidden), self.value(hidden).squeeze(1)


class DictInputs(nn.Module):
    """Takes `image` (B, 3, 8, 8) and `features` (B, 16) by name, gives `{"logits": (B, classes)}`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.linear = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.head = nn.Linear(64 + 32, CLASSES)

    def forward(self, image: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.cat([self.conv(image), self.linear(features)], dim=1))}


@functools.cache
def residual() -> Task:
    """torchvision's ResNet blocks: one whose shortcut is its input, one with a projection in it."""
    from torchvision.models.resnet import BasicBlock, conv1x1  # type: ignore[import-untyped]

    def build() -> nn.Module:
        projection = nn.Sequential(conv1x1(16, 16), nn.BatchNorm2d(16))
        return _convnet(BasicBlock(16, 16), BasicBlock(16, 16, downsample=projection))

    return train_task("residual", build, bright_quarters)


@functools.cache
def mobilenet() -> Task:
    """torchvision's MobileNetV2 with two inverted residuals, the second with its shortcut."""
    from torchvision.models import MobileNetV2  # type: ignore[import-untyped]

    setting = [[1, 16, 1, 2], [2, 16, 1, 1]]  # expansion, channels, blocks, stride
    return train_task("mobilenet", lambda: MobileNetV2(CLASSES, inverted_residual_setting=setting), bright_quarters)


@functools.cache
def efficientnet() -> Task:
    """torchvision's EfficientNet with two blocks: squeeze and excitation, SiLU, stochastic depth."""
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig  # type: ignore[import-untyped]

    blocks = [MBConvConfig(1, 3, 1, 16, 16, 1), MBConvConfig(2, 5, 1, 16, 16, 1)]
    return train_task("efficientnet", lambda: EfficientNet(blocks, dropout=0.2, num_classes=CLASSES), bright_quarters)


@functools.cache
def grouped() -> Task:
    """A convnet with grouped convolutions (Xie et al. 2017, "ResNeXt")."""

    def build() -> nn.Module:
        wide = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        return _convnet(wide, nn.ReLU(), nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16), nn.ReLU())

    return train_task("grouped", build, bright_quarters)


@functools.cache
def vit() -> Task:
    """torchvision's vision transformer."""
    from torchvision.models import VisionTransformer

    sample = functools.partial(bright_quarters, noise=0.3)  # it has no convolution's prior, and few samples
    return train_task("vit", lambda: VisionTransformer(8, 4, 2, 4, 32, 64, num_classes=CLASSES), sample)


@functools.cache
def encoder() -> Task:
    """`nn.TransformerEncoder`."""
    return train_task("encoder", TokenEncoder, most_frequent_token)


@functools.cache
def bert() -> Task:
    """Hugging Face's BERT with dict inputs and its own type of outputs."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=16, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip

    def sample(samples: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        tokens, targets = most_frequent_token(samples, generator)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, targets

    return train_task("bert", lambda: BertForSequenceClassification(config), sample, logits_loss, LOGITS_ACCURACY)


@functools.cache
def llama() -> Task:
    """A Llama-style decoder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=16, use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip
    return train_task("llama", lambda: LlamaForCausalLM(config), _named(counting), logits_loss, LOGITS_LOSS)


@functools.cache
def gpt() -> Task:
    """A GPT-2-style decoder, whose layers are transformers' own Conv1D and whose embeddings are tied."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=16, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return train_task("gpt", lambda: GPT2LMHeadModel(config), _named(counting), logits_loss, LOGITS_LOSS)


@functools.cache
def lstm() -> Task:
    """A bidirectional LSTM of two layers."""
    return train_task("lstm", lambda: RecurrentClassifier(nn.LSTM, 2, bidirectional=True), rising_channel)


@functools.cache
def gru() -> Task:
    """A GRU of one layer."""
    return train_task("gru", lambda: RecurrentClassifier(nn.GRU, 1, bidirectional=False), rising_channel)


@functools.cache
def char_lstm() -> Task:
    """A generator of sequences."""
    return train_task("char_lstm", CharLSTM, counting, sequence_loss, SEQUENCE_LOSS)


@functools.cache
def variable_length() -> Task:
    """Tuple inputs, batches of different lengths."""

    def sample(samples: int, generator: torch.Generator) -> tuple[tuple[Tensor, Tensor], Tensor]:
        x, targets = rising_channel(samples, generator)
        return (x, torch.randint(4, LENGTH + 1, (samples,), generator=generator)), targets

    return train_task("variable_length", VariableLength, sample, collate=pad)


@functools.cache
def recommender() -> Task:
    """Ratings of users and items, a regression."""

    def sample(samples: int, generator: torch.Generator) -> tuple[tuple[Tensor, Tensor], Tensor]:
        users, items = (torch.randint(count, (samples,), generator=generator) for count in (64, 128))
        return (users, items), (users % 3 + items % 2).float()

    return train_task("recommender", Recommender, sample, functional.mse_loss, SQUARED_ERROR)


@functools.cache
def gru4rec() -> Task:
    """The next item of a session."""

    def sample(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        sessions, following = counting(samples, generator)
        return sessions, following[:, -1]

    return train_task("gru4rec", GRU4Rec, sample)


@functools.cache
def two_heads() -> Task:
    """Two outputs with two targets."""

    def sample(samples: int, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x = torch.randn(samples, 16, generator=generator)
        return x, (x[:, :CLASSES].argmax(dim=1), x[:, 4] - x[:, 5])

    def loss(outputs: Any, targets: Any) -> Tensor:
        return functional.cross_entropy(outputs[0], targets[0]) + functional.mse_loss(outputs[1], targets[1])

    accuracy = Metric("accuracy", lambda outputs, targets: ACCURACY.function(outputs[0], targets[0]), is_share=True)
    error = Metric("squared_error", lambda outputs, targets: SQUARED_ERROR.function(outputs[1], targets[1]), False)
    return train_task("two_heads", TwoHeads, sample, loss, accuracy, error)


@functools.cache
def dict_inputs() -> Task:
    """Inputs and outputs by name."""

    def sample(samples: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        image, targets = bright_quarters(samples, generator)
        return {"image": image, "features": torch.randn(samples, 16, generator=generator)}, targets

    return train_task("dict_inputs", DictInputs, sample, logits_loss, LOGITS_ACCURACY)


FAMILIES: dict[str, Callable[[], Task]] = {
    factory.__name__: factory
    for factory in (
        images, residual, mobilenet, efficientnet, grouped, vit, encoder, bert, llama, gpt, lstm, gru, char_lstm,
        variable_length, recommender, gru4rec, features, two_heads, dict_inputs,
    )
}  # fmt: skip
"""Task by name; each is trained once a process."""


def logits_loss(outputs: Any, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs["logits"].flatten(0, -2), targets.flatten())


def sequence_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def _squared_error(outputs: Tensor, targets: Tensor) -> float:
    return float(functional.mse_loss(outputs, targets))


LOGITS_ACCURACY = Metric("accuracy", lambda out, targets: ACCURACY.function(out["logits"], targets), is_share=True)
LOGITS_LOSS = Metric("loss", lambda outputs, targets: float(logits_loss(outputs, targets)), higher_is_better=False)
SEQUENCE_LOSS = Metric("loss", lambda outputs, targets: float(sequence_loss(outputs, targets)), higher_is_better=False)
SQUARED_ERROR = Metric("squared_error", _squared_error, higher_is_better=False)


def most_frequent_token(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (samples, T), most of which are the class (samples,)."""
    targets = torch.randint(CLASSES, (samples,), generator=generator)
    noise = torch.randint(VOCABULARY, (samples, LENGTH), generator=generator)
    told = torch.rand(samples, LENGTH, generator=generator) < 0.5
    return torch.where(told, targets[:, None], noise), targets


def counting(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (samples, T) that count up by a step of their own, and the tokens one place on (samples, T)."""
    start = torch.randint(VOCABULARY, (samples, 1), generator=generator)
    step = torch.randint(1, 4, (samples, 1), generator=generator)
    tokens = (start + step * torch.arange(LENGTH + 1)) % VOCABULARY
    return tokens[:, :-1], tokens[:, 1:]


def rising_channel(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (samples, T, 6), of which the channel that is the class rises (samples,)."""
    targets = torch.randint(CLASSES, (samples,), generator=generator)
    rise = torch.linspace(0, 2, LENGTH)[:, None] * functional.one_hot(targets, 6)[:, None]
    return torch.randn(samples, LENGTH, 6, generator=generator) * 0.7 + rise, targets


def pad(samples: list[Any]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Sequences of their own lengths as one padded batch."""
    sequences = [x[:length] for (x, length), _ in samples]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return (pad_sequence(sequences, batch_first=True), lengths), torch.stack([target for _, target in samples])


def _named(sample: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]) -> Any:
    """The same samples with inputs by the name that language models give them."""

    def named(samples: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        tokens, targets = sample(samples, generator)
        return {"input_ids": tokens}, targets

    return named


def _convnet(*blocks: nn.Module) -> nn.Module:
    """Blocks that take and give 16 channels or as they say, between a stem and a head; images (B, 3, 8, 8)."""
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16 * 2 * 2, CLASSES))
