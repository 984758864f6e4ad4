"""vae.encode(raw): data as they are in a file, by a loaded program that knows its recipe."""

import numpy as np
import pandas as pd
import pytest
import torch
from finished import finished_run, images

import pyro_vae as pv
from pyro_vae.errors import DataError
from pyro_vae.experiment.run import checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("encoded")


@pytest.fixture(scope="module")
def run(place):
    return finished_run(place / "run", images(place / "labelled.npz"), likelihood="normal")


@pytest.fixture(scope="module")
def raw(run, place):
    with np.load(place / "labelled.npz") as file:
        return file["x"][:9]


def posterior(vae, x):
    with torch.no_grad():
        q = vae.posterior(x)
    return q.mean, q.stddev


def agree(code, expected):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(code, expected, strict=True))


def test_bytes_are_divided_by_255(run, raw):
    vae = pv.load(run)
    expected = posterior(vae, torch.from_numpy(raw).float()[:, None] / 255)
    assert agree(vae.encode(raw), expected)
    for given in (torch.from_numpy(raw), raw.astype(np.int64), raw[:, None], raw / 255, (raw / 255).tolist()):
        assert agree(vae.encode(given), expected)
    assert agree(vae.double().encode(raw), [e.double() for e in expected])
    with pytest.raises(DataError, match="Pass x / 255"):
        vae.encode(raw * 1.0)


def test_a_checkpoint_alone_and_a_shared_folder_know_it_too(run, raw, tmp_path):
    expected = pv.load(run).encode(raw)
    alone = checkpoint.manifests(run / "checkpoints")[0]
    assert agree(pv.load(alone).encode(raw), expected)
    (tmp_path / "elsewhere").mkdir()
    for path in (alone, alone.with_suffix(".safetensors")):
        (tmp_path / "elsewhere" / path.name).write_bytes(path.read_bytes())
    assert agree(pv.load(tmp_path / "elsewhere" / alone.name).encode(raw), expected)
    assert agree(pv.load(pv.share(run, tmp_path / "shared")).encode(raw), expected)


def test_a_table_in_its_own_units_with_a_column_left_out(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": random.normal(size=90) * 1e4, "same": 2.0, "time": 1.7e9 + 10 * np.arange(90.0), "b": random.random(90)}
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = finished_run(tmp_path / "run", str(tmp_path / "table.csv"), likelihood="normal", network="mlp")
    vae, test = pv.load(run), pv.data.load(str(tmp_path / "table.csv"), reals=True).test
    expected = posterior(vae, test.fixed())
    at = test.file_rows.numpy()
    assert agree(vae.encode(frame.iloc[at]), expected)
    assert agree(vae.encode(frame.to_numpy()[at]), expected)
    assert agree(vae.encode(frame[["b", "time", "a"]].iloc[at]), expected)
    shared = pv.load(pv.share(run, tmp_path / "shared"))
    assert agree(shared.encode(frame.to_numpy()[at]), expected)


def test_a_loaded_program_imputes_a_frame(tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"time": 1.7e9 + 10 * np.arange(90.0), "b": random.random(90), "c": random.random(90)})
    frame = frame.mask(random.random(frame.shape) < 0.2)
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = finished_run(tmp_path / "run", str(tmp_path / "table.csv"), likelihood="normal", network="mlp", missing="nan")
    vae, rows = pv.load(run), frame.iloc[:5]
    found = [
        pv.evaluation.impute(vae, given, 2, num_samples=10, seed=0)
        for given in (rows, rows[["c", "time", "b"]], rows.to_numpy(), torch.tensor(rows.to_numpy()))
    ]
    assert all(torch.equal(other.draws, found[0].draws) for other in found)
    filled = found[0].mean.numpy() + np.array(vae.intake.origin)
    assert vae.intake.origin[0] > 1e9
    assert np.isfinite(filled).all()
    seen = rows.notna().to_numpy()
    assert np.allclose(filled[seen], rows.to_numpy()[seen], rtol=1e-7)
    with pytest.warns(UserWarning, match="Missing in every row: b"):
        assert pv.evaluation.impute(vae, rows[["time", "c"]], 2, seed=0).mean.isfinite().all()


def test_labels_go_in_by_name_or_number(place, raw):
    run = finished_run(place / "conditional", str(place / "labelled.npz"), likelihood="normal", conditional=True)
    vae = pv.load(run)
    y = [0, 1, 2] * 3
    with torch.no_grad():
        q = vae.posterior(torch.from_numpy(raw).float()[:, None] / 255, torch.eye(3)[y])
    assert agree(vae.encode(raw, y), (q.mean, q.stddev))
    assert agree(vae.encode(raw, list(map(str, y))), (q.mean, q.stddev))
    with pytest.raises(ValueError, match="pass `y`, one label for each datum, of the classes 0, 1, 2"):
        vae.encode(raw)
    with pytest.raises(ValueError, match=r"impute\(vae, x, 20, y\)$") as told:
        pv.evaluation.iwae(vae, torch.from_numpy(raw).float()[:, None] / 255, 2)
    assert "Trace Shapes" not in str(told.value)


def test_what_has_no_closed_moments_is_the_same_at_every_call_and_leaves_the_random_stream_alone():
    net = pv.networks.MLP
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.FlowPosterior(net((4,), (6,)), 2, flow_hidden=(8,)),
        pv.likelihoods.Bernoulli(net((2,), (4,))),
    )
    x, before = torch.zeros(3, 4), torch.get_rng_state()
    first, second = vae.encode(x), vae.encode(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.mean, second.mean)
    with torch.no_grad():
        z = vae.from_guide(x, 4000)
    assert (abs(first.mean - z.mean(0)) < 5 * first.spread * (1 / 10 + 1 / 63)).all()


def test_a_program_built_by_hand_takes_x_and_bytes_get_a_cure_that_works(run, raw):
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.networks.MLP((1, 4, 4), (4,)), 2),
        pv.likelihoods.Bernoulli(pv.networks.MLP((2,), (1, 4, 4))),
    )
    x = torch.from_numpy(raw)[:, None]
    with pytest.raises(ValueError, match=r"which for uint8 is x / 255.*vae.encode\(x\)"):
        vae.encode(x)
    assert agree(vae.encode(x / 255), posterior(vae, x / 255))
    with pytest.raises(ValueError, match=r"vae.encode\(x\)"):
        pv.load(run).posterior(x)
