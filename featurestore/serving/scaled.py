"""An online read, scaled: the same rows with the features of a scaler as doubles, by the code that training uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featurestore.serving.result import Block, OnlineFeatures
from featurestore.statistics.scalers import Scaler, as_doubles, scaled
from featurestore.status import Status
from featurestore.types import Float64


def scaled_features(result: OnlineFeatures, scaler: Scaler) -> OnlineFeatures:
    """The result with its scaled features as Float64. A value that has no scaled one is NULL."""
    by = scaler.by_feature
    number = {name: i for i, name in enumerate(result.names)}
    mine = [number[s.feature] for s in scaler.features]
    if not mine:
        return result
    chosen = set(mine)
    values = np.empty((result.rows, len(mine)))
    valid, status = np.empty(values.shape, np.bool_), np.empty(values.shape, np.uint8)
    blocks: list[Block] = []
    column = {place: j for j, place in enumerate(mine)}
    for block in result.blocks:
        places = block.places.tolist()
        for place, cells in block.cells():
            if place in chosen:
                j = column[place]
                values[:, j] = as_doubles(cells.values, result.dtypes[place])
                valid[:, j], status[:, j] = cells.valid, cells.status
        kept = [j for j, place in enumerate(places) if place not in chosen]
        if kept:
            of_block = (None if x is None else x[:, kept] for x in (block.valid, block.status))
            blocks.append(Block(block.places[kept], block.values[:, kept], *of_block))
    out, known = scaled(values, valid, scaler.features)
    status[valid & ~known] = Status.NULL
    blocks.append(Block(np.array(mine), out, known, status))
    dtypes = tuple(Float64 if n in by else t for n, t in zip(result.names, result.dtypes, strict=True))
    return replace(result, blocks=tuple(blocks), dtypes=dtypes)
