from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Groups without a choice.
FIXED = {"hydra", "paths", "local"}
GROUPS = sorted(p.name for p in CONFIGS.iterdir() if p.is_dir() and p.name not in FIXED)


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """Returns the text of the help page about each group."""
    page = OmegaConf.to_container(OmegaConf.load(CONFIGS / "hydra/help/streamnest.yaml"))["template"].split("GROUPS")[1]
    parts = re.split(r"^ {2}(\w+) ", page.split("${hydra")[0], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize("group", GROUPS)
def test_help_page_names_every_choice_of_every_group(sections, group):
    choices = {p.stem for p in (CONFIGS / group).glob("*.yaml")} - {"base_streaming"}
    assert choices <= set(re.findall(r"\w+", sections[group]))


def test_the_help_page_names_only_existing_groups(sections):
    assert set(sections) == set(GROUPS)
