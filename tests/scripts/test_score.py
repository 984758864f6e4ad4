"""score.py: the numbers of an evaluation to the last digit, any file of the same form, whole or by shares."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from finished import content, finished_run, images
from scripted import exit_code

import pyro_vae as pv
from pyro_vae import evaluation
from pyro_vae.errors import DivergenceError
from pyro_vae.experiment.share import sharing
from pyro_vae.randomness import derive

ROOT = Path(__file__).parents[2]
SCORE = runpy.run_path(str(ROOT / "scripts" / "score.py"))["main"]
SAMPLE = runpy.run_path(str(ROOT / "scripts" / "sample.py"))["main"]
EVALUATE = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]
FEW = ["--num-samples", "40", "--elbo-samples", "5"]
QUICK = [*FEW, "--latent-data", "20", "--posterior-draws", "0", "--annealed-data", "0", "--escalated-draws", "0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs on the same 400 images: of grey levels, and conditional."""
    folder = tmp_path_factory.mktemp("scored")
    images(folder / "labelled.npz", 400)
    return folder


@pytest.fixture(scope="module")
def run(place):
    return finished_run(place / "run", str(place / "labelled.npz"), likelihood="normal", epochs=3)


@pytest.fixture(scope="module")
def conditional(place):
    return finished_run(place / "conditional", str(place / "labelled.npz"), likelihood="normal", conditional=True)


@pytest.fixture(scope="module")
def bits(place):
    return finished_run(place / "bits", str(place / "labelled.npz"))


@pytest.fixture(scope="module")
def raw(place):
    with np.load(place / "labelled.npz") as file:
        return {"x": file["x"], "y": file["y"]}


@pytest.fixture(scope="module")
def table(run, place):
    return scored(run, place / "test.csv", "--split", "test")


def score(run, out, *arguments):
    return exit_code(SCORE, [run, "--out", out, *FEW, *arguments])


def scored(run, out, *arguments):
    assert score(run, out, *arguments) == 0
    if out.suffix == ".npz":
        with np.load(out) as file:
            return dict(file)
    return pd.read_csv(out)


def refused(capsys, code, run, out, *arguments):
    assert score(run, out, *arguments) == code
    assert not out.exists()
    return capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["run", pytest.param("conditional", marks=pytest.mark.thorough)])
def test_the_scores_of_test_data_are_those_of_an_evaluation_to_the_last_digit(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    found = scored(folder, tmp_path / "scores.npz", "--split", "test")
    assert exit_code(EVALUATE, [folder, "--out", tmp_path, *QUICK]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    for name in ("log_likelihood", "elbo", "reconstruction", "kl"):
        assert found[name].tolist() == report["per_datum"][name]
    assert found["khat"].tolist() == report["khat"]["values"]
    error = np.sqrt(np.square(found["log_likelihood_error"]).sum()) / len(found["row"])
    assert error == pytest.approx(report["test"]["log_likelihood"]["monte_carlo_error"], rel=1e-12)


def test_every_cell_of_a_csv_is_the_number_of_the_npz(run, table, tmp_path):
    arrays = scored(run, tmp_path / "scores.npz", "--split", "test")
    for name in ("row", "log_likelihood", "khat", "percentile", "in_training"):
        assert table[name].tolist() == arrays[name].tolist()
    assert table["z1_mean"].tolist() == arrays["mean"][:, 1].tolist()
    assert table["z0_spread"].tolist() == arrays["spread"][:, 0].tolist()


def test_percentiles_are_shares_of_the_test_data_and_kept_beside_the_run(run, table, raw, tmp_path, capsys):
    values = table.log_likelihood.to_numpy()
    assert table.percentile.to_numpy() == pytest.approx([100 * np.mean(values <= value) for value in values])
    capsys.readouterr()
    np.save(tmp_path / "new.npy", raw["x"][:30])
    new = scored(run, tmp_path / "new.csv", "--data", tmp_path / "new.npy")
    assert "for the percentiles" not in capsys.readouterr().out
    wanted = [100 * np.mean(values <= value) for value in new.log_likelihood]
    assert new.percentile.to_numpy() == pytest.approx(wanted)
    (run / "test_scores.json").unlink()
    assert scored(run, tmp_path / "new.csv", "--data", tmp_path / "new.npy").equals(new)
    assert "for the percentiles" in capsys.readouterr().out


def test_a_file_of_the_same_rows_agrees_within_its_errors_in_any_order(run, table, raw, tmp_path):
    order = np.random.default_rng(0).permutation(len(table))
    rows = table.row.to_numpy()[order]
    np.savez(tmp_path / "shuffled.npz", x=raw["x"][rows], id=[f"image {row}" for row in rows])
    new = scored(run, tmp_path / "new.csv", "--data", tmp_path / "shuffled.npz")
    assert new.row.tolist() == list(range(len(table)))
    back = table.assign(id=[f"image {row}" for row in table.row]).merge(new, on="id", suffixes=("", "_new"))
    assert len(back) == len(table)
    error = np.hypot(back.log_likelihood_error, back.log_likelihood_error_new)
    usable = (back.khat < 0.7) & (back.khat_new < 0.7)
    assert usable.sum() > 10
    assert (abs(back.log_likelihood - back.log_likelihood_new) < 4 * error + 1e-3)[usable].all()
    assert np.allclose(back.z0_mean, back.z0_mean_new, atol=1e-6)
    assert np.allclose(back.z1_spread, back.z1_spread_new, atol=1e-6)


def test_rows_of_training_are_marked(run, raw, tmp_path):
    data = pv.data.load(str(Path(run).parent / "labelled.npz"))
    trained = set(data.train.file_rows.tolist())
    x = np.concatenate([raw["x"], 255 - raw["x"][:5]])
    np.save(tmp_path / "all.npy", x)
    new = scored(run, tmp_path / "all.csv", "--data", tmp_path / "all.npy")
    assert new.in_training.tolist() == [int(row in trained) for row in range(len(x))]
    of_train = scored(run, tmp_path / "train.csv", "--split", "train")
    assert of_train.in_training.all()
    assert sorted(of_train.row) == sorted(trained)


@pytest.mark.parametrize("ending", ["csv", pytest.param("npz", marks=pytest.mark.thorough)])
def test_shares_make_the_bytes_of_one_process(ending, run, raw, tmp_path, capsys):
    np.save(tmp_path / "all.npy", raw["x"])
    out = tmp_path / f"scores.{ending}"
    arguments = ["--data", tmp_path / "all.npy"]
    assert score(run, out, *arguments) == 0
    whole = out.read_bytes()
    out.unlink()
    assert "lacks shard 0/3" not in refused(capsys, 4, run, out, *arguments, "--merge")
    assert [score(run, out, *arguments, "--shard", f"{i}/3") for i in (2, 1)] == [0, 0]
    assert "lacks shard 0/3" in refused(capsys, 4, run, out, *arguments, "--merge")
    before = content(tmp_path)
    assert [score(run, out, *arguments, "--shard", f"{i}/3") for i in (0, 1)] == [0, 0]
    assert "shard 1/3 is in" in capsys.readouterr().out
    assert {name: sha for name, sha in content(tmp_path).items() if name in before} == before
    assert "draws differ" in refused(capsys, 4, run, out, *arguments, "--merge", "--num-samples", "41")
    assert score(run, out, *arguments, "--merge") == 0
    assert out.read_bytes() == whole


def test_a_conditional_run_names_classes_and_scores_rows_without_labels(conditional, raw, tmp_path, capsys):
    np.savez(tmp_path / "new.npz", x=raw["x"][:20], y=raw["y"][:20])
    known = scored(conditional, tmp_path / "known.npz", "--data", tmp_path / "new.npz")
    assert known["label"].tolist() == raw["y"][:20].astype(str).tolist()
    assert np.exp(known["log_posterior"]).sum(1) == pytest.approx(1)
    assert known["class"].tolist() == known["log_posterior"].argmax(1).astype(str).tolist()
    np.save(tmp_path / "new.npy", raw["x"][:20])
    capsys.readouterr()
    new = scored(conditional, tmp_path / "unknown.npz", "--data", tmp_path / "new.npy")
    assert "log p(x) sums over classes" in capsys.readouterr().out
    vae, data = pv.load(conditional), pv.data.load(str(Path(conditional).parent / "labelled.npz"))
    share = data.train.one_hot(3).mean(0).double().log()
    x = vae.intake.x(raw["x"][:20])

    seed = derive(0, "evaluation")
    each = [pv.evaluation.iwae(vae, x, 40, y.expand(20, -1), seed).value for y in torch.eye(3)]
    expected = torch.logsumexp(torch.stack(each, 1) + share, 1)
    assert new["log_likelihood"] == pytest.approx(expected.numpy(), abs=1e-9)
    assert new["log_posterior"] == pytest.approx((torch.stack(each, 1) + share).log_softmax(1).numpy(), abs=1e-9)
    np.savez(tmp_path / "other.npz", x=raw["x"][:3], y=[0, 1, 7])
    assert "label '7' of row 2 is not a class" in refused(
        capsys, 3, conditional, tmp_path / "no.csv", "--data", tmp_path / "other.npz"
    )


def test_rows_at_the_same_place_see_the_same_bits_whatever_lies_beside_them(bits, raw, tmp_path):
    np.save(tmp_path / "many.npy", raw["x"])
    np.save(tmp_path / "few.npy", raw["x"][:7])
    many, few = (scored(bits, tmp_path / f"{n}.npz", "--data", tmp_path / f"{n}.npy") for n in ("many", "few"))
    assert np.allclose(many["mean"][:7], few["mean"], atol=1e-6)
    assert not np.allclose(many["mean"][:7], many["mean"][7:14], atol=1e-3)


def test_reconstructions_are_means_at_the_centre_of_the_code(run, raw, tmp_path, capsys):
    np.save(tmp_path / "new.npy", raw["x"][:9])
    found = scored(run, tmp_path / "new.npz", "--data", tmp_path / "new.npy", "--reconstructions")
    vae = pv.load(run)
    with torch.no_grad():
        expected = vae.likelihood(vae.centre(vae.intake.x(raw["x"][:9]))).mean
    assert found["reconstructed"] == pytest.approx(expected.numpy(), abs=1e-6)
    message = refused(capsys, 2, run, tmp_path / "new.csv", "--data", tmp_path / "new.npy", "--reconstructions")
    assert "use --out scores.npz" in message


def test_a_shared_folder_scores_files_alone(run, raw, tmp_path, capsys):
    sharing.share(run, tmp_path / "shared", pictures=False)
    np.save(tmp_path / "new.npy", raw["x"][:9])
    arguments = ["--data", tmp_path / "new.npy"]
    here = scored(run, tmp_path / "here.csv", *arguments)
    capsys.readouterr()
    there = scored(tmp_path / "shared", tmp_path / "there.csv", *arguments)
    assert "no percentiles" in capsys.readouterr().out
    assert there.equals(here.drop(columns=["percentile", "in_training"]))
    assert "score a file" in refused(capsys, 2, tmp_path / "shared", tmp_path / "no.csv", "--split", "test")


def test_data_that_moved_are_found_and_missing_ones_leave_out_what_needs_them(raw, tmp_path, capsys):
    (tmp_path / "old").mkdir()
    run = finished_run(tmp_path / "run", images(tmp_path / "old" / "data.npz", 60), likelihood="normal")
    (tmp_path / "old").rename(tmp_path / "new")
    np.save(tmp_path / "new.npy", raw["x"][:9])
    arguments = ["--data", tmp_path / "new.npy"]
    alone = scored(run, tmp_path / "alone.csv", *arguments)
    assert "the run's data are missing" in capsys.readouterr().out
    assert "percentile" not in alone
    whole = scored(run, tmp_path / "whole.csv", *arguments, "--data-dir", tmp_path / "new")
    assert whole.drop(columns=["percentile", "in_training"]).equals(alone)
    assert "Name the folder that holds it with --data-dir" in refused(
        capsys, 3, run, tmp_path / "no.csv", "--split", "test"
    )


def test_a_plain_autoencoder_scores_reconstructions_and_says_so(place, tmp_path, capsys):
    run = finished_run(
        tmp_path / "run", str(place / "labelled.npz"), likelihood="normal", posterior="delta", kl_weight=0.0
    )
    found = scored(run, tmp_path / "scores.csv", "--split", "test")
    assert "A plain autoencoder has no log p(x)" in capsys.readouterr().out
    assert not {"log_likelihood", "elbo", "kl", "percentile"} & set(found.columns)
    assert (found.z0_spread == 0).all()
    assert found.reconstruction.notna().all()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings", [{"layers": 2, "latent_dim2": 2}, {"posterior": "flow"}, {"guide": "bottom_up", "layers": 2}]
)
def test_codes_without_closed_moments_are_those_of_what_the_decoder_sees(settings, place, tmp_path):
    run = finished_run(
        tmp_path / "run",
        str(place / "labelled.npz"),
        likelihood="normal",
        flow_hidden=(8,),
        objective="trace_elbo",
        **settings,
    )
    found = scored(run, tmp_path / "scores.npz", "--split", "test")
    vae = pv.load(run)
    x = pv.data.load(str(place / "labelled.npz")).test.fixed()
    with torch.no_grad():
        z = vae.from_guide(x, 4000)
    assert found["mean"].shape == (len(x), 2)
    error = found["spread"] * (1 / 10 + 1 / 63)
    assert (abs(found["mean"] - z.mean(0).numpy()) < 5 * error + 1e-5).all()
    assert np.median(found["spread"] / z.std(0).numpy()) == pytest.approx(1, abs=0.1)


WRONG = {
    "neither": ([], 2, "name what to score: --data FILE"),
    "no file": (["--data", "none.npy"], 3, "there is no such file"),
    "no folder": (["--data", "nowhere"], 3, "there is no such file"),
    "another shape": (["--data", "shape.npy"], 3, "one datum is 1 x 4 x 5 numbers; the run was trained on 1 x 4 x 4"),
    "flat": (["--data", "flat.npy"], 3, "Save x.reshape(-1, 4, 4)"),
    "floats": (["--data", "floats.npy"], 3, "Save np.round(x * 255).astype(np.uint8)"),
    "large floats": (["--data", "large.npy"], 3, "Save x.astype(np.uint8)"),
    "levels": (["--data", "levels.npy"], 3, "levels.npy: 300 at row 2, position (0, 1, 3); the run was trained"),
    "bools": (["--data", "bools.npy"], 3, "x.astype(np.uint8) * 255"),
    "two arrays": (["--data", "two.npz"], 2, "holds x_train, x_test; choose one, as in --array x_test"),
    "no array": (["--data", "two.npz", "--array", "x_tst"], 2, "did you mean 'x_test'?"),
    "no split": (["--split", "tset"], 2, "unknown split 'tset'; did you mean 'test'? (train, valid, test)"),
    "an ending": (["--split", "test", "--out", "scores.txt"], 2, "name such a file, as --out scores.csv"),
}  # fmt: skip


@pytest.fixture(scope="module")
def wrong(raw, tmp_path_factory):
    folder, x = tmp_path_factory.mktemp("wrong"), raw["x"][:6]
    levels = x.astype(np.int64)
    levels[2, 1, 3] = 300
    made = {
        "shape": np.zeros((6, 4, 5), np.uint8), "flat": x.reshape(6, 16), "floats": x / 255, "large": x * 1.0,
        "levels": levels, "bools": x > 100,
    }  # fmt: skip
    for name, array in made.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "two.npz", x_train=x, x_test=x)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_scored_is_refused_with_the_cure(name, run, wrong, capsys, monkeypatch):
    monkeypatch.chdir(wrong)
    arguments, code, sentence = WRONG[name]
    assert sentence in refused(capsys, code, run, wrong / "no.csv", *arguments)


def test_the_cures_work(run, raw, wrong, tmp_path):
    expected = scored(run, tmp_path / "whole.csv", "--data", save(tmp_path / "whole.npy", raw["x"][:6]))
    for name in ("floats", "large", "flat"):
        x = np.load(wrong / f"{name}.npy")
        cured = {
            "floats": lambda x: np.round(x * 255).astype(np.uint8),
            "large": lambda x: x.astype(np.uint8),
            "flat": lambda x: x.reshape(-1, 4, 4),
        }[name](x)
        path = save(tmp_path / f"{name}.npy", cured)
        assert scored(run, tmp_path / f"{name}.csv", "--data", path).equals(expected)
    found = scored(run, tmp_path / "two.csv", "--data", wrong / "two.npz", "--array", "x_test")
    assert found.equals(expected)


def save(path, array):
    np.save(path, array)
    return path


def test_no_run_is_said_in_a_sentence(tmp_path, capsys):
    assert "holds no trained run" in refused(capsys, 4, tmp_path / "none", tmp_path / "no.csv", "--split", "test")


@pytest.mark.parametrize("kind", ["run", pytest.param("conditional", marks=pytest.mark.thorough)])
def test_samples_need_no_training_data(kind, request, tmp_path, capsys):
    source = request.getfixturevalue(kind)
    copy, gone = shutil.copytree(source, tmp_path / "copy"), tmp_path / "gone"
    gone.mkdir()
    arguments = [copy, "--only", "samples", "latent_grid", "--data-dir", gone]
    assert exit_code(SAMPLE, arguments) == 0
    assert exit_code(SAMPLE, [source, "--only", "samples", "latent_grid", "--out", tmp_path / "with"]) == 0
    for name in ("samples", "latent_grid"):
        assert (copy / "samples" / f"{name}.npz").read_bytes() == (tmp_path / "with" / f"{name}.npz").read_bytes()
    assert exit_code(SAMPLE, [copy, "--only", "reconstructions", "--data-dir", gone]) == 3
    assert "there is no such file" in capsys.readouterr().err


MEASURED = """
import re, sys
from pyro_vae.cli.score_command import main
main(sys.argv[1:])
status = open("/proc/self/status").read()  # getrusage tells the peak of whoever started this process, too
print("MIB", int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) >> 10)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Of 2,000 and of 100,000 rows. The file has 38 MiB more, and is read whole; what is written has 190 MiB more."""
    x = np.random.default_rng(0).integers(0, 256, (100, 20, 20), np.uint8)
    np.save(tmp_path / "x.npy", x)
    run = finished_run(tmp_path / "run", str(tmp_path / "x.npy"), likelihood="normal", epochs=1)

    def peak(size):
        path = save(tmp_path / f"{size}.npy", np.resize(x, (size, 20, 20)))
        arguments = [run, "--data", path, "--out", tmp_path / f"{size}.npz", "--reconstructions"]
        line = [sys.executable, "-c", MEASURED, *map(str, arguments), "--num-samples", "2", "--elbo-samples", "2"]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        return int(done.stdout.split("MIB")[1])

    few, many = peak(2000), peak(100_000)
    print(f"{few} MiB, then {many} MiB")
    assert many < few + 38 + 40


def test_one_wild_row_costs_itself_alone(run, raw, tmp_path, capsys, monkeypatch):
    """A row on which the program breaks down is nan and named; the others keep their numbers."""
    path, out = save(tmp_path / "new.npy", raw["x"][:9]), tmp_path / "new.npz"
    whole = scored(run, out, "--data", path)
    capsys.readouterr()
    real, wild = evaluation.score, torch.from_numpy(raw["x"][4] / 255).float()

    def breaks(vae, x, *arguments, **options):
        if (x[:, 0] == wild).flatten(1).all(1).any():
            raise DivergenceError("the guide is not finite")
        return real(vae, x, *arguments, **options)

    monkeypatch.setattr(evaluation, "score", breaks)
    found, said = scored(run, out, "--data", path), capsys.readouterr().out
    assert "No finite log p(x) of row 4. Its scores are nan." in said
    assert "1 row has no finite log p(x): row 4." in said
    for name in ("log_likelihood", "elbo", "mean", "percentile"):
        assert np.isnan(found[name][4]).all()
        assert np.array_equal(np.delete(found[name], 4, 0), np.delete(whole[name], 4, 0))
    one = save(tmp_path / "one.npy", raw["x"][4:5])
    assert "No row of one.npy that was tried can be scored" in refused(
        capsys, 5, run, tmp_path / "no.csv", "--data", one
    )


def table_with_gaps(size):
    random = np.random.default_rng(1)
    rows = pd.DataFrame(random.normal(size=(size, 3)), columns=["a", "b", "c"])
    return rows.assign(a=1.7e9 + 5 * rows.a, id=[f"=a{i}" for i in range(size)], k=2.0)


@pytest.fixture(scope="module")
def gaps(place):
    frame = table_with_gaps(300)
    frame.loc[::2, "b"] = np.nan
    frame.to_csv(place / "gaps.csv", index=False)
    settings = {"missing": "nan", "id": "id", "epochs": 3}
    return finished_run(place / "gaps", str(place / "gaps.csv"), likelihood="normal", **settings)


def test_percentiles_are_among_test_rows_of_the_same_gaps(gaps, tmp_path, capsys):
    frame = table_with_gaps(6)
    frame.loc[1, "b"] = frame.loc[2, "c"] = np.nan
    frame.to_csv(tmp_path / "new.csv", index=False)
    new = scored(gaps, tmp_path / "new.scores.csv", "--data", tmp_path / "new.csv")
    assert "1 row has no percentile: fewer than 20 test data miss the same numbers" in capsys.readouterr().out
    test = scored(gaps, tmp_path / "test.csv", "--split", "test")
    assert new.missing.tolist() == [0, 1, 1, 0, 0, 0]
    for row, (value, count) in enumerate(zip(new.log_likelihood, new.missing, strict=True)):
        among = test.log_likelihood[test.missing == count]
        expected = np.nan if row == 2 else 100 * np.mean(among <= value)
        assert new.percentile[row] == pytest.approx(expected, nan_ok=True)
    assert new.id[3] == "'=a3"


def test_tables_are_written_in_the_units_of_their_file(gaps, tmp_path):
    arrays = scored(gaps, tmp_path / "new.npz", "--split", "test", "--reconstructions")
    assert arrays["names"].tolist() == ["a", "b", "c"]
    assert abs(arrays["reconstructed"][:, 0] - 1.7e9).max() < 100
    assert arrays["id"][0].startswith("=a")
    assert exit_code(SAMPLE, [gaps, "--only", "samples", "--number", "7", "--out", tmp_path / "drawn"]) == 0
    drawn = np.load(tmp_path / "drawn" / "samples.npz")
    assert drawn["x"].shape == (7, 3)
    assert abs(drawn["x"][:, 0] - 1.7e9).max() < 100
    written = pd.read_csv(tmp_path / "drawn" / "samples.csv")
    assert list(written.columns) == drawn["names"].tolist() == ["a", "b", "c"]
    assert written.to_numpy().tolist() == drawn["x"].tolist()


def test_a_run_without_run_json_knows_its_columns_by_its_checkpoint(gaps, tmp_path):
    copy = shutil.copytree(gaps, tmp_path / "copy")
    (copy / "run.json").unlink()
    assert pv.load(copy).intake == pv.load(gaps).intake
    assert any(pv.load(copy).intake.origin)


def test_shares_of_another_array_are_not_put_together(run, raw, tmp_path, capsys):
    np.savez(tmp_path / "two.npz", x_train=raw["x"][:9], x_test=raw["x"][9:18])
    out, arguments = tmp_path / "scores.csv", ["--data", tmp_path / "two.npz", "--array"]
    assert score(run, out, *arguments, "x_train", "--shard", "0/1") == 0
    capsys.readouterr()
    assert "array differ" in refused(capsys, 4, run, out, *arguments, "x_test", "--merge")


def test_too_few_draws_have_no_khat(run, raw, tmp_path, capsys):
    path = save(tmp_path / "new.npy", raw["x"][:9])
    assert score(run, tmp_path / "new.csv", "--data", path, "--num-samples", "20") == 0
    assert "k-hat needs 25 draws or more: n/a with 20" in capsys.readouterr().out
