"""One module for each framework; `benchmarks.rows` names them."""
