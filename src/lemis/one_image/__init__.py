"""One image without a training set: how it is read, divided into clusters and recorded."""
