"""Many scenes and many machines: batches and Dask clusters."""
