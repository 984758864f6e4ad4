"""The report of an evaluated run with every key that one can have, and sparse ones; the numbers are made up."""

import json
import math

from pyro_vae.experiment.run import files


def estimate(mean, standard_error=0.2, monte_carlo_error=0.004, num_samples=100, num_data=6, unit="nats", **more):
    return {
        "mean": mean, "standard_error": standard_error, "monte_carlo_error": monte_carlo_error,
        "num_samples": num_samples, "num_data": num_data, "unit": unit, **more,
    }  # fmt: skip


def base():
    """What training leaves."""
    return {
        "test": {
            "elbo": estimate(-22.5061, kind={"z": "analytic"}),
            "reconstruction": estimate(-17.5108, kind={"z": "analytic"}),
            "kl": estimate(4.9953, 0.051, 0.0, kind={"z": "analytic"}),
            "log_likelihood": estimate(-22.1476, 0.1908, 0.00204, 1000),
            "bits_per_dim": estimate(0.49925, 0.0043, 4.6e-5, 1000, unit="bits/dim"),
        },
        "objective": {"objective": "trace_elbo", "num_particles": 1, "kl_weight": 1.0, "reconstruction_weight": 1.0},
        "training": {"epochs": 600, "best_epoch": 489, "valid_elbo": -22.4},
        "config": {"conditional": False, "seed": 0},
        "protocol": {
            "name": "digits",
            "shape": [1, 8, 8],
            "split": {"kind": "random", "given": [], "sizes": {"train": 1257, "valid": 180, "test": 6}},
            "binarization": {"kind": "none", "sentence": "Not binarised."},
            "dequantized": None,
            "notes": ["There are few test images."],
        },
    }  # fmt: skip


def autoencoder():
    """Of a plain autoencoder, as training leaves it."""
    found = base()
    found["test"] = {"reconstruction": estimate(-5.9381), "rmse": estimate(0.1521, unit="per number", num_samples=1)}
    found["autoencoder"] = {"numbers_in": 64, "numbers_in_code": 20}
    found["objective"] |= {"kl_weight": 0.0, "loss": 5.9381}
    return found


def _baseline(name, mean, difference, interval, verdict):
    ours = estimate(mean, 0.2514, 0.0)
    del ours["num_samples"]
    numbers = {"mean": difference, "standard_error": 0.1722, "monte_carlo_error": 0.00204, "interval": interval}
    about = {"confidence": 0.95, "num_data": [6, 6], "is_paired": True, "unit": "nats", "leaves_out": "seeds"}
    return {"name": name, **ours, "difference": numbers | about, "verdict": verdict}


def full():
    """Of an evaluated VAE of one latent site."""
    ais = {"num_temperatures": 200, "acceptance": 0.6476}
    khat = [0.31, None, 0.82, 0.12, 0.58, 0.74]
    return base() | {
        "run": {
            "name": "digits-vamp-0",
            "command": "python scripts/evaluate.py runs/digits-vamp-0",
            "trained_by": "python scripts/train_svi.py --prior vamp",
            "evaluated": "2026-11-21T10:31:07+00:00",
            "git": "0123abc",
            "versions": {"torch": "2.15.0"},
            "machine": {"device": "cpu"},
            "seconds": 104.0,
            "num_parameters": 55144,
            "members": {"prior": "VampPrior", "posterior": "DiagonalNormal", "likelihood": "Bernoulli"},
        },
        "protocol_card": {"split": "random 1257 / 180 / 6", "binarisation": "none"},
        "baselines": {
            "rows": [
                _baseline("Bernoulli by pixel", -27.345, 5.1974, [4.8321, 5.5218], "better"),
                _baseline("another baseline", -22.2, 0.0524, [-0.021, 0.1317], "no difference shown"),
            ],
            "notes": ["yet another: left out."],
            "num_fitted": 1257,
            "by_class": False,
        },
        "curve": [estimate(-22.51, num_samples=1), estimate(-22.24, 0.19, 0.002, 5),
                  estimate(-22.15, 0.19, 0.003, 1000)],
        "jackknife": estimate(-22.1482, 0.1909, 0.0021, 1000),
        "reference": {
            "num_data": 4,
            # Out of order on purpose: by chance a cheaper bound may come out above a dearer one.
            "rows": [
                {"name": "ELBO", "label": "ELBO, 100 draws", **estimate(-22.364, num_data=4)},
                {"name": "AIS", "label": "AIS from q, T = 200", **estimate(-22.03, 0.362, 0.003, 16, 4), **ais},
                {"name": "IWAE", "label": "IWAE, K = 1000", **estimate(-22.021, 0.361, 0.0038, 1000, 4)},
                {
                    "name": "grid", "label": "grid, 64 x 64", **estimate(-22.025, 0.361, 0.0, 4096, 4),
                    "refinement": 2e-6, "boundary": 1e-9, "unreliable": 0,
                },
            ],
            "differences": [{"label": "AIS - ELBO", "mean": 0.334, "standard_error": 0.017}],
        },
        "simulated": {
            "num_data": 5,
            "forward": estimate(-22.5716, 0.4048, 0.003, 16, 5, **ais),
            "reverse": estimate(-22.5745, 0.4052, 0.0031, 16, 5, **ais),
            "gap": -0.00286,
            "gap_error": 0.00462,
            "iwae": estimate(-22.5736, 0.4049, 0.0035, 1000, 5),
            "elbo": estimate(-22.9277, 0.4092, 0.0086, 100, 5),
        },
        "khat": {
            "threshold": 0.7, "num_samples": 1000, "above": 2 / 6, "values": khat,
            "ess": [640.0, 1000.0, 54.02, 811.0, 300.5, 133.3],
            "worst": [
                {"datum": 2, "khat": 0.82, "ess": 54.02, "log_likelihood": -28.5014, "label": 6},
                {"datum": 5, "khat": 0.74, "ess": 133.3, "log_likelihood": -27.7812, "label": None},
            ],
        },
        "escalation": {
            "num_data": 6, "taken": 1, "of": 2, "budget": "one datum, 20,000 draws, AIS",
            "mean_change": 0.0658, "mean_change_error": 0.02,
            "rows": [{
                "datum": 2, "khat": 0.82, "iwae": -28.5014, "iwae_error": 0.1324, "iwae_anew": -28.61,
                "iwae_anew_error": 0.05, "iwae_more": -28.5495, "iwae_more_error": 0.0281, "more_samples": 20000,
                "khat_more": 0.59, "ais": -28.4356, "ais_error": 0.06,
            }],
        },
        "latent": {
            "num_data": 1257,
            "active": {"z": {
                "count": 2, "of": 3, "relative_count": 2, "threshold": 0.01,
                "variance": [0.23, 0.002, 1.58], "variance_error": [0.009, 0.0001, 0.053],
            }},
            "kl_per_dimension": {"z": {
                "mean": [0.7, 0.01, 1.9], "standard_error": [0.02, 0.001, 0.03], "kind": "analytic",
            }},
            "mutual_information": estimate(4.7729, 0.027, 0.019, 5, 1257, bound=math.log(1257)),
            "marginal_kl": estimate(0.2805, 0.013, 0.009, 5, 1257,
                                    leave_one_out=estimate(-0.1234, 0.011, 0.008, 5, 1257)),
            "total_correlation": estimate(3.3348, 0.076, 0.041, 2, 1257,
                                          leave_one_out=estimate(3.0123, 0.07, 0.04, 2, 1257)),
            "rate": estimate(5.0534, 0.0284, 0.0113, 20, 1257),
            "distortion": estimate(16.8664, 0.1105, 0.012, 20, 1257),
        },
        "gaps": {
            "num_data": 4,
            "reference": "AIS from q, T = 200, 16 chains",
            "inference": {"mean": 0.3413, "standard_error": 0.0165},
            "approximation": {"mean": 0.1606, "standard_error": 0.0084},
            "amortisation": {"mean": 0.1807, "standard_error": 0.0134},
            "train_test": {
                "mean": 0.644, "standard_error": 0.286,
                "train": estimate(-21.867, 0.21, 0.0047), "test": estimate(-22.511, 0.1938, 0.0046),
            },
        },
        "posterior": {
            "datum": 3, "label": 8, "method": "NUTS", "num_draws": 600, "chains": 2, "rhat_max": 1.0119,
            "ess_min": 712.3, "divergences": 0,
        },
        "precision": {
            "name": "ELBO, float32 - bfloat16", "mean_absolute": 0.04569, "largest": 0.27435,
            **estimate(0.005154, 0.003647, 0.0002112),
        },
        "classification": {
            "accuracy": 0.9361, "standard_error": 0.0129, "log_p_of_true_class": -0.2135, "num_data": 6,
            "majority_class": 4, "majority_share": 0.1667, "num_samples": 100,
            "khat_above_0.7": {"true_class": 0.06, "other_classes": 0.18},
        },
        "timings": {"ais": 34.0, "bdmc": 47.98},
    }  # fmt: skip


def as_read(report):
    """As it comes back from report.json, with sorted keys."""
    return json.loads(files.to_json(report))


def estimates(found, path=()):
    """Every (path, dict) with a mean and an error, however deep; lists of numbers for dimensions are none."""
    if isinstance(found, dict):
        if {"mean", "standard_error"} <= found.keys() and not isinstance(found["mean"], list):
            yield path, found
        for key, value in found.items():
            yield from estimates(value, (*path, key))
    elif isinstance(found, list):
        for i, value in enumerate(found):
            yield from estimates(value, (*path, i))


EVALUATED = sorted(full().keys() - base().keys())
