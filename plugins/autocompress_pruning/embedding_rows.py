"""Embedding tables whose rare rows share one."""

from __future__ import annotations

import base64
import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from autocompress import Integer, Method, NotApplicable, Parameter, Plan, Target, Task, Technique, Trait
from autocompress.data import batches
from autocompress.effect import outputs
from autocompress.errors import first_line
from autocompress.tensors import call
from autocompress_pruning.readers import replace, same_tensors, set_weight, shared_parameters

SEEN_SAMPLES = 4096
"""Training samples, drawn at random, in which rows are counted."""
LEAST_SAVED = 0.02
"""Share of a table that must go: less is not worth a look-up more for each token."""


class SharedRows(nn.Module):
    """An embedding table of the rows that are kept and, as its last, one that stands for all others."""

    rows: Tensor
    """Row of the small table by row of the old one (old rows,), int32."""

    def __init__(self, table: nn.Embedding, kept: Tensor) -> None:
        """`table` has a row for each that `kept` (old rows,) marks, and one more."""
        super().__init__()
        self.table = table
        self.num_embeddings, self.embedding_dim = len(kept), table.embedding_dim
        places = torch.where(kept, kept.cumsum(0) - 1, table.num_embeddings - 1)
        self.register_buffer("rows", places.to(table.weight.device, torch.int32), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        rows: Tensor = self.table(self.rows[input])
        return rows


class EmbeddingRows(Method):
    """Lets the rows of embedding tables that the training data hardly uses share one row, their mean.

    The shared row learns in the recovery what stands for "rare". Good for recommenders and language models that are
    used on less than they were made for; no gain where all tokens and items are frequent, and a loss for those that are
    rare in the training data but matter: position tables are tables too, and longer inputs than the training data's
    then lose their places. Which rows are kept is stored as a bit each. Tables that are tied to another
    layer are left alone.

    A single bucket of Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning", for the rare rows.
    """

    name = "embedding_rows"
    technique = Technique.PRUNING
    gives = frozenset({Trait.MERGED})

    def search_space(self, task: Task) -> Mapping[str, Parameter]:
        """`min_count`: rows that are seen less often in up to 4096 training samples share one."""
        return {"min_count": Integer(1, 20, default=2)}

    def check(self, task: Task, target: Target) -> None:
        """Raises NotApplicable if there is no table or all its rows are in use."""
        plan = self.decide(task.trained_model(), {"min_count": 2}, task)
        if not plan["tables"]:
            reasons = "".join(f"; {layer} {reason}" for layer, reason in plan["left"].items())
            raise NotApplicable(
                f"{self.name} merges rows of nn.Embedding tables that the training data hardly uses,"
                f" but this model has none{reasons}"
            )

    def decide(self, model: nn.Module, params: Mapping[str, Any], task: Task) -> Plan:
        """By table, which rows are kept: one bit a row, as base64."""
        counts = count_rows(model, task)
        tables: dict[str, str] = {}
        left = {
            name: "is an nn.EmbeddingBag, which is not handled"
            for name, layer in model.named_modules()
            if isinstance(layer, nn.EmbeddingBag)
        }
        shared = shared_parameters(model)
        for name, count in counts.items():
            table = model.get_submodule(name)
            assert isinstance(table, nn.Embedding)
            kept = count >= params["min_count"]
            if table.padding_idx is not None:
                kept[table.padding_idx] = True
            rare = int((~kept).sum())
            if table.weight in shared:
                left[name] = "shares its weight with another layer"
            elif not count.any():
                left[name] = "is read in another way than by calling it"
            elif rare - 1 < LEAST_SAVED * len(kept):
                left[name] = f"has {rare} of {len(kept)} rows that are seen less than {params['min_count']} times"
            elif error := self._error(model, {name: _encode(kept)}, task):
                left[name] = f"cannot be replaced: {error}"
            else:
                tables[name] = _encode(kept)
        return {"tables": tables, "left": left}

    def _error(self, model: nn.Module, tables: Mapping[str, str], task: Task) -> str:
        """What the model says when it runs with these tables; nothing if it does."""
        try:
            outputs(self.reshape(same_tensors(model), {"tables": tables}), task.inputs(2))
        except Exception as error:  # the user's forward, which may want more of the table than rows
            return first_line(error)
        return ""

    def skipped(self, model: nn.Module, plan: Plan) -> Mapping[str, str]:
        left: dict[str, str] = plan["left"]
        return left

    def reshape(self, model: nn.Module, plan: Plan) -> nn.Module:
        for name, bits in plan["tables"].items():
            table = model.get_submodule(name)
            assert isinstance(table, nn.Embedding)
            model = replace(model, name, share_rows(table, _decode(bits, table.num_embeddings)))
        return model


def share_rows(table: nn.Embedding, kept: Tensor) -> SharedRows:
    """The table with one row, their mean, for all that are not kept (rows,)."""
    small = copy.deepcopy(table)
    weight = table.weight.detach()
    set_weight(small, "weight", torch.cat([weight[kept], weight[~kept].mean(dim=0, keepdim=True)]))
    small.num_embeddings = len(small.weight)
    if table.padding_idx is not None:
        small.padding_idx = int(kept[: table.padding_idx].sum())
    return SharedRows(small, kept)


class _Seen(Exception):  # noqa: N818  (no error: the rest of a forward is of no interest)
    """All tables of the model were looked up."""


def count_rows(model: nn.Module, task: Task) -> dict[str, Tensor]:
    """How often each row is looked up in the training data (rows,), by the table's name.

    Where each table is looked up once, a forward ends with the last look-up, so that what comes after costs nothing.
    """
    tables = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Embedding}
    counts = {name: torch.zeros(table.num_embeddings, dtype=torch.long) for name, table in tables.items()}
    looked_up: list[str] = []
    last: list[str] = []

    def note(name: str, tokens: Tensor) -> None:
        counts[name] += torch.bincount(tokens.flatten(), minlength=len(counts[name]))
        looked_up.append(name)
        if looked_up == last:
            raise _Seen

    def run(inputs: Any) -> None:
        looked_up.clear()
        with torch.no_grad(), contextlib.suppress(_Seen):
            call(model, inputs)

    hooks = [
        table.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name, table in tables.items()
    ]
    try:
        run(task.inputs(2))
        last = list(looked_up) if len(set(looked_up)) == len(looked_up) else []
        for count in counts.values():
            count.zero_()
        for inputs in _training_inputs(task) if looked_up else ():
            run(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _training_inputs(task: Task) -> Iterator[Any]:
    chosen = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))[:SEEN_SAMPLES].tolist()
    data: Any = Subset(task.train, chosen)  # type: ignore[arg-type]
    for inputs, _ in batches(data, 64, collate=task.collate):
        yield inputs


def _encode(kept: Tensor) -> str:
    return base64.b64encode(np.packbits(kept.numpy()).tobytes()).decode()


def _decode(bits: str, rows: int) -> Tensor:
    packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(packed, count=rows).astype(bool))
