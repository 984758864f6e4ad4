import pytest
import torch

from pyro_vae.randomness import block_seed, block_stream, derive, generator, preserved, stream


def test_torch_keeps_only_32_bits_of_a_seed():
    """The reason why blocks are counted and not hashed; should torch change, this says so."""
    draws = [torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1 + 2**32)]
    assert torch.equal(*draws)


def test_streams_depend_on_their_whole_name():
    names = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a", "1")]
    assert len({derive(*name) for name in names}) == len(names)
    assert all(0 <= derive(*name) < 2**32 for name in names)


def test_blocks_never_collide():
    corner = [(0, 0), (2**20 - 1, 0), (0, 2**12 - 1), (2**20 - 1, 2**12 - 1)]
    blocks = {*corner, *((i, j) for i in range(300) for j in range(300))}
    assert len({block_seed(7, i, j) for i, j in blocks}) == len(blocks)
    assert all(0 <= block_seed(7, i, j) < 2**32 for i, j in corner)


def test_neighbouring_seeds_do_not_share_blocks():
    blocks = [{block_seed(seed, i, j) for i in range(100) for j in range(32)} for seed in range(5)]
    assert len(set.union(*blocks)) == 5 * 3200


@pytest.mark.parametrize("block", [(2**20, 0), (0, 2**12)])
def test_more_blocks_than_a_seed_can_keep_apart_are_refused(block):
    with pytest.raises(ValueError, match="split the data over several seeds"):
        block_seed(0, *block)


@pytest.mark.parametrize("context", [lambda: stream(3, "x"), lambda: block_stream(3, 1, 2), preserved])
def test_the_callers_state_comes_back(context):
    before = torch.get_rng_state()
    with context():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TypeError), context():
        torch.rand(3) + "an error inside"
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_a_block_goes_on_with_the_callers_stream():
    before = torch.get_rng_state()
    with block_stream(None, 0, 0):
        torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_stream_and_its_generator_repeat():
    with stream(3, "x"):
        first = torch.rand(3)
    with stream(3, "x"):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(torch.rand(3, generator=generator(3, "x")), first)
