"""Data a second whose log p(x) is estimated with K draws each, beside the machine's matrix products."""

from collections.abc import Iterator

from benchmarks.agreement import LikelihoodTruth
from benchmarks.measure import Timing, Turn, alternate, tried
from benchmarks.plan import Plan
from benchmarks.problem import X_DIM, Size
from benchmarks.rows import LIKELIHOOD
from benchmarks.tables import MEMORY, Cell, Table, mebibytes
from benchmarks.team import Worker, assembled

DATA, SAMPLES, CONV_SAMPLES = 128, 1000, 200
QUICK_DATA, QUICK_SAMPLES = 8, 64
ROWS, EDGE = 4096, 2048
COLUMNS = ["row", "data/s", "ms a datum", "GFLOP/s", "% of float32", "% of bfloat16", "x pythae", *MEMORY]

Product = tuple[int, int, int, str]


def tables(plan: Plan) -> Iterator[Table]:
    """One for each size, as soon as it is measured."""
    return (table(plan, size) for size in plan.sizes)


def table(plan: Plan, size: Size) -> Table:
    """All rows and the matrix products side by side."""
    num_data, num_samples = _amount(plan, size)
    watch, truth, keys = plan.watch(), LikelihoodTruth(size), plan.chosen(list(LIKELIHOOD))
    with (
        assembled("floor", ["floor"], size, plan.setting, 1) as (floor, _),
        assembled("likelihood", keys, size, plan.setting, num_data) as (workers, missing),
    ):
        agreeing, refused = tried(workers, truth.check)
        for worker in agreeing.values():
            worker.ask("start_over", num_data=num_data)
        turns = {
            key: Turn(worker, "log_likelihood", arguments={"num_samples": num_samples})
            for key, worker in agreeing.items()
        }
        products = {_title(product): _turn(floor["floor"], product) for product in _products(size)}
        timings, failed = alternate({**products, **turns}, plan.repeats, plan.seconds, watch)
        memory = {key: agreeing[key].ask("memory") for key in timings if key in agreeing}
    reasons = {**missing, **refused, **failed}
    rates = {product: _flops(product) / timings[_title(product)].median / 1e9 for product in _products(size)}
    rows: list[dict[str, Cell]] = [{"row": _title(product), "GFLOP/s": rate} for product, rate in rates.items()]
    work = num_data, num_samples * size.decoder_flops, rates[_products(size)[0]], rates[_products(size)[1]]
    rows += [
        {**_row(key, timings, *work), **mebibytes(memory[key])}
        if key in timings
        else {"row": LIKELIHOOD[key].title, "data/s": reasons[key]}
        for key in keys
    ]
    return Table(
        f"log p(x), K = {num_samples}, {num_data} data, batch x hidden {size.name}",
        COLUMNS,
        rows,
        [
            f"Medians of {plan.repeats} rounds. The arithmetic counted is that of the decoder; the shares are of the "
            f"product of its last layer, {_title(_products(size)[0])}, and of the same in bfloat16.",
            watch.verdict(),
        ],
    )


def _amount(plan: Plan, size: Size) -> tuple[int, int]:
    """N and K; a pass of convolutions takes long enough with fewer draws."""
    if plan.quick:
        return QUICK_DATA, QUICK_SAMPLES
    return DATA, CONV_SAMPLES if size.convolutional else SAMPLES


def _products(size: Size) -> list[Product]:
    last = (ROWS, size.hidden or 400, X_DIM)
    return [(*shape, dtype) for shape in (last, (EDGE, EDGE, EDGE)) for dtype in ("float32", "bfloat16")]


def _title(product: Product) -> str:
    rows, inner, columns, dtype = product
    return f"matrix product {rows} x {inner} x {columns}, {dtype}"


def _flops(product: Product) -> int:
    rows, inner, columns, _ = product
    return 2 * rows * inner * columns


def _turn(worker: Worker, product: Product) -> Turn:
    rows, inner, columns, dtype = product
    return Turn(worker, "product", "times", {"rows": rows, "inner": inner, "columns": columns, "dtype": dtype})


def _row(
    key: str, timings: dict[str, Timing], num_data: int, flops: int, float32: float, bfloat16: float
) -> dict[str, Cell]:
    seconds = timings[key].median / num_data
    rate = flops / seconds / 1e9
    return {
        "row": LIKELIHOOD[key].title,
        "data/s": 1 / seconds,
        "ms a datum": 1e3 * seconds,
        "GFLOP/s": rate,
        "% of float32": 100 * rate / float32,
        "% of bfloat16": 100 * rate / bfloat16,
        "x pythae": timings["pythae"].median / timings[key].median if "pythae" in timings else None,
    }
