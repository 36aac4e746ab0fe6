"""Random numbers: functions of their key, correctly distributed, and independent between streams."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from streamnest.randomness import fold_keys, hash_id, normal, numpy_generator, random_bits, uniform


def test_numbers_depend_on_the_key_and_not_the_batch() -> None:
    keys = torch.tensor([3, -7, 1 << 40])
    together = uniform(keys, 50)
    for row in range(3):
        assert torch.equal(uniform(keys[row : row + 1], 20)[0], together[row, :20])
    torch.manual_seed(1)
    assert torch.equal(uniform(keys, 50), together)


def test_uniform_numbers_are_even_and_adjacent_keys_independent() -> None:
    draws = uniform(torch.arange(2000), 500)
    assert draws.min() >= 0 and draws.max() < 1
    shares = torch.histc(draws, 10, 0, 1) / draws.numel()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), rtol=0, atol=2e-3)
    assert abs(torch.corrcoef(torch.stack([draws[:-1].flatten(), draws[1:].flatten()]))[0, 1]) < 5e-3


def test_normal_numbers_have_the_moments_of_their_distribution() -> None:
    draws = normal(torch.arange(200), 5000).double()
    assert float(draws.mean()) == pytest.approx(0, abs=5e-3)
    assert float(draws.std()) == pytest.approx(1, abs=5e-3)
    assert float((draws**4).mean()) == pytest.approx(3, abs=0.05)


def test_folding_depends_on_the_values_and_their_order() -> None:
    keys = torch.arange(1000)
    folded = [fold_keys(keys, *values) for values in ((1, 2), (2, 1), (1, 3), (1,))]
    assert len({value for tensor in folded for value in tensor.tolist()}) == 4000
    assert (random_bits(folded[0], 10) >= 0).all()


def test_hashes_of_ids_are_equal_in_all_processes() -> None:
    code = "from streamnest.randomness import hash_id; print(hash_id('cut-7'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == hash_id("cut-7") != hash_id("cut-8")


def test_numpy_generators_differ_by_seed_step_cut_and_stream() -> None:
    places = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    draws = [float(numpy_generator(*place).random()) for place in places]
    assert len(set(draws)) == 5
    assert draws[0] == float(numpy_generator(*places[0]).random())
