"""Storage: objects, parts, Delta tables, HDF5 files and releases."""
