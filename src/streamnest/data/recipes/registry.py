"""Table of all recipes by the name of the corpus on the command line."""

from __future__ import annotations

from streamnest.data.recipes.corpora import (
    commonvoice,
    folder,
    gigaspeech,
    kaldi,
    lhotse_manifest,
    lhotse_recipes,
    libriheavy,
    librilight,
    manifest,
    mls,
    voxpopuli,
)
from streamnest.data.recipes.options import Recipe

RECIPES: dict[str, Recipe] = {
    name: recipe
    for module in (
        lhotse_recipes,
        librilight,
        libriheavy,
        mls,
        voxpopuli,
        commonvoice,
        gigaspeech,
        folder,
        manifest,
        kaldi,
        lhotse_manifest,
    )
    for name, recipe in module.RECIPES.items()
}
