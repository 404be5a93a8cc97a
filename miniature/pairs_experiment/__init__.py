"""Do the pairs matter? One adapter for each way to make them of the same footage."""
